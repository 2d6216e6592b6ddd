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
    Completion,
    Content_Chat,
    Content_Completion,
    HookError_Config,
    HookError_Internal,
    Message,
    Rejection,
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


def warm_up() -> None:
    """Uses what a job uses, once, when the component is built.

    The memory of that moment is the snapshot that every instance starts from, so
    that no job has to import, compile or specialise what is in it.
    """
    probe = Guard('{"topics": {"probe": ["some text"]}}')
    for text in ("no such thing", "Some  Text."):
        completion = Content_Completion(Completion(system="", input=[text]))
        chat = Content_Chat([Message(role=Role_User(), content=text)])
        for content in (completion, chat):
            topic = probe.topic_of(texts_of(content))
            if topic is None:
                request_hook.Verdict_Pass()
            else:
                request_hook.Verdict_Reject(
                    Rejection(code=probe.code, reason=probe.reason_for(topic))
                )


warm_up()


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

    def self_test(self) -> None:
        probe = Guard('{"topics": {"probe": ["self test"]}}')
        if probe.topic_of(["a Self  Test."]) != "probe":
            raise Err("topic-guard: self-test failed: a known topic was not found")


class RequestHook(exports.RequestHook):
    def on_request(self, context, request) -> request_hook.Verdict:
        try:
            topic = guard().topic_of(texts_of(request.content))
            if topic is None:
                return request_hook.Verdict_Pass()
            rejection = Rejection(code=guard().code, reason=guard().reason_for(topic))
            return request_hook.Verdict_Reject(rejection)
        except ConfigError as error:
            raise Err(HookError_Config(f"topic-guard: {error}")) from error
        except Exception as error:  # noqa: BLE001 - the alternative is a trap without a word
            raise Err(HookError_Internal(traceback.format_exc())) from error
