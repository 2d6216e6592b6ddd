"""``topic-guard``: a request hook that rejects requests about configured topics.

This file joins ``topics.py`` to the worker's interfaces. Every exception becomes
an error that the worker can report: one that leaves a hook is a trap, and its
Python traceback is lost.
"""

import json
import traceback

from componentize_py_types import Err
from topics import SCHEMA, ConfigError, Guard, with_joined
from wit_world import exports
from wit_world.exports import request_hook
from wit_world.imports import config
from wit_world.imports.types import (
    CallContext,
    Completion,
    Content_Chat,
    Content_Completion,
    HookError_Config,
    HookError_Internal,
    Message,
    OptionValue,
    Rejection,
    Request,
    Role_System,
    Role_User,
)

_guard: Guard | None = None


def guard() -> Guard:
    """The guard, made once per instance."""
    global _guard
    if _guard is None:
        _guard = Guard(config.document())
    return _guard


def texts_of(content) -> list[str]:
    """What the client wrote. System messages are the operator's matter."""
    if isinstance(content, Content_Completion):
        return with_joined(content.value.input)
    return [message.content for message in content.value if not isinstance(message.role, Role_System)]


def verdict(guard: Guard, content) -> request_hook.Verdict:
    """What becomes of a request with this content."""
    topic = guard.topic_of(texts_of(content))
    if topic is None:
        return request_hook.Verdict_Pass()
    rejection = Rejection(code=guard.code, reason=guard.reason_for(topic))
    return request_hook.Verdict_Reject(rejection)


class Lifecycle(exports.Lifecycle):
    def describe(self) -> exports.lifecycle.PluginInfo:
        return exports.lifecycle.PluginInfo(
            name="topic-guard",
            version="0.1.0",
            description="Llamero request hook that rejects requests about configured topics.",
            config_schema=json.dumps(SCHEMA),
        )

    def configure(self) -> None:
        try:
            guard()
        except ConfigError as error:
            raise Err(f"topic-guard: {error}") from error
        rehearse()

    def self_test(self) -> None:
        probe = Guard('{"topics": {"probe": ["self test"]}}')
        if probe.topic_of(["a Self  Test."]) != "probe":
            raise Err("topic-guard: self-test failed: a known topic was not found")


class RequestHook(exports.RequestHook):
    def on_request(self, context, request) -> request_hook.Verdict:
        try:
            return verdict(guard(), request.content)
        except ConfigError as error:
            raise Err(HookError_Config(f"topic-guard: {error}")) from error
        except Exception as error:  # noqa: BLE001 - the alternative is a trap without a word
            raise Err(HookError_Internal(traceback.format_exc())) from error


def rehearse() -> None:
    """Answers requests as a job would, and forgets the answers.

    It runs when the component is built: the memory of that moment is the snapshot
    that every instance starts from, so that no job has to import, compile or
    specialise what is in it. And it runs in ``configure``, because an instance
    shares that snapshot page by page until it writes to a page, and Python writes to
    every object that it as much as looks at. Pages that are written here, ahead of
    need, are not copied while a client waits: the first call takes 0.2 ms with it and
    0.55 ms without.
    """
    context = CallContext("job", "subject", "worker", None, 1, None, [])
    options = [OptionValue(name="temperature", json="0.5")]
    for text in ("no such thing", "Some  Text."):
        completion = Content_Completion(Completion(system="", input=[text]))
        chat = Content_Chat([Message(role=Role_User(), content=text)])
        for content in (completion, chat):
            RequestHook().on_request(context, Request("model", content, options, True))


_guard = Guard('{"topics": {"probe": ["some text"]}}')
rehearse()
_guard = None
