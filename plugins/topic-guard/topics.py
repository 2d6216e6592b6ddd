"""The topics: reading their configuration, and finding them in text.

Pure functions without any import of the worker's interfaces, so that
``python3 -m unittest`` can run them. ``app.py`` joins them to the worker.

A keyword matches whole words without regard to case; ``invest*`` matches every
word that begins so, and ``stock market`` two words with any space between them.
This is a guard against ordinary use of a service for what it is not there for,
and no defence against somebody who means to get round it.
"""

import json
import re
import unicodedata

#: Codes of 1000 and more belong to plugins; the protocol has those below.
FIRST_PLUGIN_CODE = 1000

DEFAULTS = {
    "topics": {},
    "code": 1403,
    "reason": "The topic {topic} is not served here.",
}

#: JSON Schema of the configuration document; ``Guard`` enforces the same.
SCHEMA = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "title": "topic-guard",
    "type": "object",
    "additionalProperties": False,
    "properties": {
        "topics": {
            "description": "Name of a topic to its keywords. A keyword matches whole words, "
            "without regard to case; a * at its end matches any ending.",
            "type": "object",
            "additionalProperties": {
                "type": "array",
                "minItems": 1,
                "items": {"type": "string", "minLength": 1},
            },
            "default": DEFAULTS["topics"],
        },
        "code": {
            "description": "Error code that the client gets.",
            "type": "integer",
            "minimum": FIRST_PLUGIN_CODE,
            "maximum": 2**32 - 1,
            "default": DEFAULTS["code"],
        },
        "reason": {
            "description": "Error text that the client gets; {topic} becomes the topic's name.",
            "type": "string",
            "minLength": 1,
            "default": DEFAULTS["reason"],
        },
    },
}


class ConfigError(Exception):
    """The configuration is unusable; the text says what is wrong with it."""


class Guard:
    """The configuration, checked and made ready for searching."""

    def __init__(self, document: str):
        config = _read(document)
        self.code = config["code"]
        self.reason = config["reason"]
        self._topics = list(config["topics"])
        self._pattern = _pattern(config["topics"])

    def topic_of(self, texts: list[str]) -> str | None:
        """The topic of the first keyword that occurs in ``texts``, if one does."""
        if not self._topics:
            return None
        for text in texts:
            if found := self._pattern.search(_fold(text)):
                # One group a topic, so that one pass over the text finds them all.
                return self._topics[found.lastindex - 1]
        return None

    def reason_for(self, topic: str) -> str:
        """The error text for a request about ``topic``."""
        return self.reason.replace("{topic}", topic)


def with_joined(elements: list[str]) -> list[str]:
    """The elements of an input, and what a model makes of them: it reads them one
    after the other with nothing between, so a keyword may lie on a border. They
    count one by one as well, because a client may have cut its text at line ends.
    """
    return [*elements, "".join(elements)] if len(elements) > 1 else elements


def _read(document: str) -> dict:
    try:
        config = json.loads(document)
    except ValueError as error:
        raise ConfigError(f"the configuration is not JSON: {error}") from error
    if not isinstance(config, dict):
        raise ConfigError("the configuration must be an object")
    unknown = sorted(config.keys() - DEFAULTS.keys())
    if unknown:
        raise ConfigError(f"unknown key {unknown[0]!r}: the keys are {', '.join(DEFAULTS)}")
    config = DEFAULTS | config

    topics = config["topics"]
    if not isinstance(topics, dict):
        raise ConfigError("'topics' must be an object of keyword lists")
    for topic, keywords in topics.items():
        is_list = isinstance(keywords, list) and keywords
        if not is_list or not all(isinstance(keyword, str) for keyword in keywords):
            raise ConfigError(f"topic {topic!r} must have a list of at least one keyword")
    code = config["code"]
    # In Python a bool is an int, in JSON it is not.
    if not isinstance(code, int) or isinstance(code, bool):
        raise ConfigError(f"'code' must be a whole number, not {code!r}")
    if not FIRST_PLUGIN_CODE <= code < 2**32:
        raise ConfigError(f"'code' is {code}: a plugin's codes are {FIRST_PLUGIN_CODE} to {2**32 - 1}")
    if not isinstance(config["reason"], str) or not config["reason"]:
        raise ConfigError("'reason' must be a text")
    return config


def _pattern(topics: dict) -> re.Pattern:
    """One regular expression for all keywords, to be searched in folded text."""
    groups = [
        "(" + "|".join(_keyword(topic, keyword) for keyword in keywords) + ")"
        for topic, keywords in topics.items()
    ]
    return re.compile(rf"(?<!\w)(?:{'|'.join(groups)})(?!\w)")


def _keyword(topic: str, keyword: str) -> str:
    folded = _fold(keyword)
    words = [re.escape(word) for word in folded.removesuffix("*").split()]
    if not words:
        raise ConfigError(f"topic {topic!r} has an empty keyword")
    phrase = r"\s+".join(words)
    return phrase + r"\w*" if folded.endswith("*") else phrase


def _fold(text: str) -> str:
    """One form for all the ways in which Unicode can write the same letters."""
    return unicodedata.normalize("NFKC", text).casefold()
