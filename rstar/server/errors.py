"""What goes wrong with a request, in the shape of OpenAI's errors.

{"error": {"message": "...", "type": "invalid_request_error", "param": "seconds", "code": null}}
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from rstar.errors import BackendError, ConfigError, GradingError, RstarError, SandboxError

INVALID = "invalid_request_error"
SERVER = "server_error"
CLIENT_GONE = 499
"""Status under which a request is counted whose client did not wait (nginx's)."""
_SHOWN_CHARS = 80


class Json(JSONResponse):
    """JSON in ASCII: what a model wrote may hold lone surrogates, which UTF-8 lacks."""

    def render(self, content: Any) -> bytes:
        """The body."""
        return dumps(content).encode("ascii")


def dumps(content: Any) -> str:
    """JSON in ASCII, on one line."""
    return json.dumps(content, allow_nan=False, separators=(",", ":"))


class ApiError(HTTPException):
    """Why a request is not served. `param` names what is wrong in it."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = INVALID,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(status, message, headers)
        self.kind, self.param, self.code = kind, param, code

    def body(self) -> dict[str, Any]:
        """As OpenAI's clients read it."""
        return {"error": {"message": self.detail, "type": self.kind, "param": self.param, "code": self.code}}

    def response(self) -> Json:
        return Json(self.body(), self.status_code, headers=self.headers)


def api_error(error: Exception) -> ApiError:
    """What to tell the client of any error. Only those that this project raises on purpose are told in their own words."""
    match error:
        case ApiError():
            return error
        case RequestValidationError():
            return _invalid(error)
        case HTTPException():
            return ApiError(error.status_code, _http_message(error), headers=error.headers)
        case ConfigError():
            return ApiError(400, str(error), param=_param(str(error)))
        case BackendError() | SandboxError() | GradingError():
            return ApiError(503, str(error), kind=SERVER, code="unavailable", headers={"Retry-After": "5"})
        case RstarError():
            return ApiError(500, str(error), kind=SERVER)
        case _:
            return ApiError(500, "the server failed; its log says why", kind=SERVER)


def shown(value: object) -> str:
    """A value from a request, short enough for a message."""
    text = repr(value)
    return text if len(text) <= _SHOWN_CHARS else f"{text[:_SHOWN_CHARS]}…"


def _http_message(error: HTTPException) -> str:
    match error.status_code:
        case 404:
            return "there is nothing here; see /openapi.json for what there is"
        case 405:
            return "this method is not allowed here"
        case _:
            return str(error.detail)


def _invalid(invalid: RequestValidationError) -> ApiError:
    first = invalid.errors()[0]
    path = [part for part in first["loc"][1:] if part != "str" and not str(part).startswith("list[")]
    param = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).lstrip(".") or None
    message = first["msg"][:1].lower() + first["msg"][1:]
    match first["type"]:
        case "json_invalid":
            reason = first["ctx"]["error"]
            return ApiError(400, f"the body is not valid JSON: {reason}", code="invalid_json")
        case "missing" if param is None:
            return ApiError(400, "the body is missing; send a JSON object", code="invalid_json")
        case "missing":
            return ApiError(400, f"{param} is missing", param=param, code="missing_required_parameter")
        case _ if param is None:
            wanted = "a JSON object, with the header Content-Type: application/json"
            return ApiError(400, f"the body is not {wanted}", code="invalid_json")
        case _:
            return ApiError(
                400, f"{param} is {shown(first['input'])}; {message}", param=param, code="invalid_value"
            )


def _param(message: str) -> str | None:
    """The request's name for what a ConfigError is about: its messages begin with the setting."""
    found = re.match(r"(?:sampling\.)?(\w+)", message)
    name = found.group(1) if found else ""
    return {"max_tree_tokens": "max_tokens"}.get(name, name) if name in _OPTIONS else None


_OPTIONS = frozenset(
    {
        "certainty", "max_tree_tokens", "num_candidates", "num_rollouts", "question", "seconds", "seed", "selection",
        "strategy", "temperature", "top_p",
    }
)  # fmt: skip
