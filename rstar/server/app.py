"""The application: routes from requests to the solver and back."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from contextlib import ExitStack, aclosing, asynccontextmanager, contextmanager
from importlib.metadata import version
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import HTMLResponse, Response

from rstar.answers import Answer, Finished, StepsFound
from rstar.errors import RstarError
from rstar.server.door import Door, unless_gone
from rstar.server.errors import CLIENT_GONE, ApiError, Json, api_error
from rstar.server.merging import merged
from rstar.server.requests import (
    ChatRequest,
    CompletionRequest,
    Options,
    SearchRequest,
    check_model,
)
from rstar.server.responses import CHAT, DONE, TEXT, Completion, EventStream, Shape, new_id, sse, steps
from rstar.server.service import Service, State
from rstar.server.trees import Shown
from rstar.solver import Solver

log = logging.getLogger(__name__)

Asked = Sequence[tuple[str, str, Solver]]
"""Searches: an id, a question, and the solver that has its options."""


def create_app(service: Service) -> FastAPI:
    """The ASGI application over a service, which it opens when it starts and stops when it ends."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        opening = asyncio.create_task(service.open())
        yield
        service.stop()
        await opening

    # The interactive documentation pages would load scripts from elsewhere.
    app = FastAPI(
        title="rstar", version=version("rstar"), lifespan=lifespan, docs_url=None, redoc_url=None,
        description="Questions answered by a search over code-augmented reasoning steps.",
    )  # fmt: skip
    app.add_middleware(Door, config=service.config, metrics=service.metrics)
    for kind in (HTTPException, RequestValidationError, RstarError, Exception):
        app.add_exception_handler(kind, _explain)
    app.add_exception_handler(ClientDisconnect, _nobody_there)
    _add_questions(app, service)
    _add_facts(app, service)
    _add_pages(app, service)
    return app


def _add_questions(app: FastAPI, service: Service) -> None:
    @app.post("/v1/chat/completions")
    async def chat_completions(asked: ChatRequest, request: Request) -> Response:
        """OpenAI's chat completions: the last message is the question."""
        return await complete(asked, CHAT, request)

    @app.post("/v1/completions")
    async def completions(asked: CompletionRequest, request: Request) -> Response:
        """OpenAI's completions: each prompt is a question."""
        return await complete(asked, TEXT, request)

    async def complete(asked: ChatRequest | CompletionRequest, shape: Shape, request: Request) -> Response:
        check_model(asked.model, service.config)
        making = Completion(id=new_id(shape.prefix), shape=shape, model=asked.model, ignored=asked.ignored())
        with _admitted(asked, making.id, service) as (searches, held):
            if asked.stream:
                chunks = _chunks(service, searches, making, with_usage=asked.stream_options.include_usage)
                return EventStream(chunks, held.pop_all())
            return Json(making.whole(await unless_gone(request.receive, _answers(service, searches))))

    @app.post("/v1/search")
    async def search(asked: SearchRequest, request: Request) -> Response:
        """One search with all that it found: the answer and the tree; streamed, every step as it is found."""
        if asked.model is not None:
            check_model(asked.model, service.config)
        search_id = new_id("search")
        with _admitted(asked, search_id, service) as (searches, held):
            if asked.stream:
                return EventStream(_search_events(service, searches, search_id), held.pop_all())
            (answer,) = await unless_gone(request.receive, _answers(service, searches))
            return Json({"id": search_id, "object": "search", **answer.plain(with_tree=True)})


def _add_facts(app: FastAPI, service: Service) -> None:
    config = service.config
    model = {"id": config.model, "object": "model", "created": 0, "owned_by": "rstar"}

    @app.get("/v1/models")
    async def models() -> Response:
        """The one model that there is."""
        return Json({"object": "list", "data": [model]})

    @app.get("/v1/models/{name:path}")
    async def one_model(name: str) -> Response:
        """The model of that name."""
        check_model(name, config)
        return Json(model)

    @app.get("/health")
    async def health() -> Response:
        """200 if questions are answered at once, 503 while the server starts or stops."""
        return Json({"status": str(service.state)}, 200 if service.state is State.READY else 503)

    @app.get("/metrics")
    async def metrics() -> Response:
        """For Prometheus."""
        return Response(service.metrics.render(), headers={"Content-Type": CONTENT_TYPE_LATEST})


def _add_pages(app: FastAPI, service: Service) -> None:
    def shown(search_id: str) -> Shown:
        found = service.trees.get(search_id)
        if found is None:
            raise ApiError(404, "no such search is known; / lists those that are", code="search_not_found")
        return found

    @app.get("/")
    async def searches() -> Response:
        """A page that lists the searches that run, and the last ones that ended."""
        return HTMLResponse(service.trees.page())

    @app.get("/trees/{search_id}")
    async def tree(search_id: str) -> Response:
        """A page with the tree of a search, growing while it runs."""
        return HTMLResponse(shown(search_id).page())

    @app.get("/trees/{search_id}/events")
    async def tree_events(search_id: str) -> Response:
        """What that page listens to."""
        return EventStream(shown(search_id).events(), ExitStack())


@contextmanager
def _admitted(asked: Options, request_id: str, service: Service) -> Iterator[tuple[Asked, ExitStack]]:
    """What is asked, if there is a place for it; the place is held until the stack is closed. The first search has the id
    of the request."""
    with ExitStack() as held:
        pairs = asked.solvers(service.solver, service.config)
        held.enter_context(service.admission.admit(len(pairs)))
        ids = [request_id, *(f"{request_id}-{index}" for index in range(1, len(pairs)))]
        yield [(search_id, *pair) for search_id, pair in zip(ids, pairs, strict=True)], held


async def _answers(service: Service, asked: Asked) -> list[Answer]:
    """The answers to all, in their order."""
    answers: dict[int, Answer] = {}
    async with aclosing(merged([service.events(*one) for one in asked])) as events:
        async for index, event in events:
            if isinstance(event, Finished):
                answers[index] = event.answer
    return [answers[index] for index in range(len(asked))]


async def _chunks(
    service: Service, asked: Asked, making: Completion, *, with_usage: bool
) -> AsyncGenerator[str, None]:
    """OpenAI's chunks of all choices, as their searches find steps."""
    answers: list[Answer] = []
    for chunk in making.begin(len(asked)):
        yield chunk
    try:
        async with aclosing(merged([service.events(*one) for one in asked])) as events:
            async for index, event in events:
                if isinstance(event, StepsFound):
                    yield making.steps(index, event)
                    continue
                answers.append(event.answer)
                for chunk in making.end(index, event.answer):
                    yield chunk
    except Exception as error:
        yield sse(_told(error))
        return
    if with_usage:
        yield making.usage(answers)
    yield DONE


async def _search_events(service: Service, asked: Asked, search_id: str) -> AsyncGenerator[str, None]:
    """Events `search`, `steps` …, `answer`; or `error`."""
    (one,) = asked
    yield sse({"id": search_id}, "search")
    try:
        async with aclosing(service.events(*one)) as events:
            async for event in events:
                if isinstance(event, StepsFound):
                    yield sse({"parent": event.parent, "steps": steps(event)}, "steps")
                else:
                    yield sse(event.answer.plain(with_tree=True), "answer")
    except Exception as error:
        yield sse(_told(error), "error")


def _told(error: Exception) -> dict[str, Any]:
    """An error in the middle of a stream, whose status is out already."""
    told = api_error(error)
    if told.status_code == 500:
        log.error("a search failed", exc_info=error)
    return told.body()


async def _explain(_: Request, error: Exception) -> Response:
    return api_error(error).response()


async def _nobody_there(_: Request, __: Exception) -> Response:
    return Response(status_code=CLIENT_GONE)
