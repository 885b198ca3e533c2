"""A chat as a prefix, and a prefix as a chat.

The search knows a prefix: a prompt and the steps that follow. A chat API knows messages. So the prompt of a chat format is
written down with the lengths of its messages, and read back when a step is asked for; what stands behind it is the
beginning of the assistant's answer. Chat models dress up what they write (code fences, the steps so far said again);
`undress` takes that off and nothing else.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from rstar.errors import ConfigError
from rstar.steps import CODE, END_OF_ANSWER, END_OF_CODE, END_OF_STEP

_HEAD = re.compile(r"<<chat (\d+) (\d+)>>\n")
_FENCE = re.compile(r"\A\s*```[A-Za-z]*[ \t]*\n")
_CLOSING_FENCE = re.compile(rf"\n```[ \t]*(?=\n?(?:{END_OF_STEP}|{END_OF_CODE})\Z)")


@dataclass(frozen=True, slots=True)
class Chat:
    """What was asked, and how far the answer is."""

    system: str
    user: str
    answer: str

    def prefilled(self) -> list[dict[str, str]]:
        """Messages that end in the assistant's, unfinished."""
        return [*self._system(), _message("user", self.user), _message("assistant", self.answer)]

    def quoted(self) -> list[dict[str, str]]:
        """Messages that end in the user's, with the answer so far in it."""
        asked = (
            f"{self.user}\n\nThe solution so far:\n\n{self.answer.rstrip()}\n\nWrite only the next step: the text that "
            f"comes right after this, up to and with its {END_OF_STEP}, {END_OF_CODE} or {END_OF_ANSWER}. "
            "Repeat nothing, explain nothing, use no code fences."
        )
        return [*self._system(), _message("user", asked)]

    def _system(self) -> list[dict[str, str]]:
        return [_message("system", self.system)] if self.system else []


def write_chat(messages: Sequence[dict[str, str]]) -> str:
    """A prompt's messages (a system's, if there is one, and a user's) as text that `read_chat` understands."""
    by_role = {message["role"]: message["content"] for message in messages}
    system, user = by_role.get("system", ""), by_role["user"]
    return f"<<chat {len(system)} {len(user)}>>\n{system}{user}"


def read_chat(prefix: str) -> Chat:
    """The chat that a prefix continues. Raises ConfigError if its prompt is none."""
    head = _HEAD.match(prefix)
    if head is None:
        raise ConfigError(
            "engine.openai.api is chat, but the prompt is no chat; use a chat format such as few-shot-chat"
        )
    system, user = (int(length) for length in head.groups())
    at = head.end()
    return Chat(
        prefix[at : at + system], prefix[at + system : at + system + user], prefix[at + system + user :]
    )


def undress(text: str, answer: str) -> str:
    """The step that a chat model wrote after `answer`, without what it was wrapped in."""
    said_again = answer.strip()
    text = _FENCE.sub("", text.lstrip())
    if said_again and text.startswith(said_again):
        text = text.removeprefix(said_again)
    text = _FENCE.sub("", text.lstrip())
    text = text.removeprefix(CODE).lstrip()
    return _CLOSING_FENCE.sub("", text)


def _message(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}
