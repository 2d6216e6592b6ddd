"""The topics; ``python3 -m unittest`` runs this."""

import json
import unittest

from topics import DEFAULTS, SCHEMA, ConfigError, Guard, with_joined


def guard(**topics):
    return Guard(json.dumps({"topics": topics}))


class Matching(unittest.TestCase):
    def check(self, keyword, text, expected):
        found = guard(topic=[keyword]).topic_of([text])
        self.assertEqual(found is not None, expected, f"{keyword!r} in {text!r}")

    def test_whole_words(self):
        self.check("bomb", "A bomb.", True)
        self.check("bomb", "bomb", True)
        self.check("bomb", "a photobomb", False)
        self.check("bomb", "bombastic", False)
        self.check("bomb", "bomb_1", False)

    def test_any_ending(self):
        self.check("invest*", "Investing now", True)
        self.check("invest*", "invest", True)
        self.check("invest*", "reinvest", False)

    def test_phrases(self):
        self.check("stock market", "the stock\n  market!", True)
        self.check("stock market", "stock, market", False)
        self.check("stock market", "stockmarket", False)

    def test_case_and_unicode_forms(self):
        self.check("straße", "STRASSE", True)
        self.check("ÄRZTE", "a\u0308rzte", True)
        self.check("bomb", "\uff22\uff2f\uff2d\uff22", True)

    def test_keyword_is_no_regular_expression(self):
        self.check("c++", "I like C++ .", True)
        self.check("a.c", "abc", False)
        self.check("(", "a ( b", True)

    def test_first_keyword_in_the_texts_decides(self):
        both = guard(one=["x", "xx*"], two=["y", "z"])
        self.assertEqual(both.topic_of(["y x"]), "two")
        self.assertEqual(both.topic_of(["a", "xxl y"]), "one")
        self.assertEqual(both.topic_of(["a z", "x"]), "two")
        self.assertIsNone(both.topic_of(["a"]))
        self.assertIsNone(both.topic_of([]))

    def test_overlapping_keywords(self):
        self.check("a b", "a a b", True)
        both = guard(short=["stock"], long=["stock market"])
        self.assertEqual(both.topic_of(["stock market"]), "short")
        self.assertEqual(both.topic_of(["stocks, stock markets, stock market"]), "short")

    def test_keyword_cut_by_the_border_of_two_elements(self):
        bomb = guard(t=["bomb"])
        self.assertEqual(bomb.topic_of(with_joined(["a bo", "mb b"])), "t")
        self.assertEqual(bomb.topic_of(with_joined(["bomb", "astic"])), "t")
        self.assertEqual(with_joined(["a"]), ["a"])
        self.assertEqual(with_joined([]), [])

    def test_no_topics_no_match(self):
        self.assertIsNone(Guard("{}").topic_of(["anything", ""]))

    def test_long_text_is_searched_in_one_go(self):
        self.check("stock market", "stock " * 100_000, False)
        self.check("stock market", "stock" + " " * 100_000, False)


class Configuration(unittest.TestCase):
    def test_every_key_is_read(self):
        made = Guard('{"topics": {"t": ["x"]}, "code": 1500, "reason": "No {topic}, {x}."}')
        self.assertEqual(made.code, 1500)
        self.assertEqual(made.reason_for("t"), "No t, {x}.")

    def test_defaults(self):
        made = Guard("{}")
        self.assertEqual(made.code, 1403)
        self.assertEqual(made.reason_for("t"), "The topic t is not served here.")

    def test_schema_has_the_same_keys_and_defaults(self):
        defaults = {key: value["default"] for key, value in SCHEMA["properties"].items()}
        self.assertEqual(defaults, DEFAULTS)

    def test_mistakes_are_refused_by_name(self):
        for document, expected in [
            ("", "not JSON"),
            ("[]", "must be an object"),
            ('{"topic": {}}', "unknown key 'topic'"),
            ('{"topics": []}', "'topics' must be an object"),
            ('{"topics": {"t": []}}', "topic 't' must have a list"),
            ('{"topics": {"t": "x"}}', "topic 't' must have a list"),
            ('{"topics": {"t": [1]}}', "topic 't' must have a list"),
            ('{"topics": {"t": ["  *"]}}', "topic 't' has an empty keyword"),
            ('{"code": "1403"}', "whole number"),
            ('{"code": true}', "whole number"),
            ('{"code": 9}', "'code' is 9"),
            ('{"code": 4294967296}', "'code' is 4294967296"),
            ('{"reason": ""}', "'reason' must be a text"),
        ]:
            with self.subTest(document), self.assertRaises(ConfigError) as caught:
                Guard(document)
            self.assertIn(expected, str(caught.exception))


if __name__ == "__main__":
    unittest.main()
