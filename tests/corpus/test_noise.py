"""Noise rules: what each measures, on which side it rejects, and that good text passes."""

import base64
import random
import zlib
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field

from grasp_pipeline.config import CleaningConfig
from grasp_pipeline.corpus.noise import RULES, first_rejection, noise_rules
from grasp_pipeline.corpus.noise.compression_ratio import HighCompressionRatio, LowCompressionRatio
from grasp_pipeline.corpus.noise.repetition import Repetition
from grasp_pipeline.corpus.noise.rule import Rule
from grasp_pipeline.corpus.noise.symbol_ratio import SymbolRatio
from grasp_pipeline.corpus.noise.too_short import TooShort
from grasp_pipeline.errors import ConfigError
from grasp_pipeline.section import Section, all_of

PROSE = (
    "The harbour was quiet when the ferry came in. Two men on the quay caught the ropes, and a woman with a "
    "basket of plums waited for the gangway. Nobody spoke; the gulls did that for everyone."
)
GERMAN = (
    "Der Hafen war still, als die Fähre einlief. Zwei Männer fingen die Seile, und eine Frau mit einem Korb "
    "voller Pflaumen wartete auf den Steg. Niemand sprach; das übernahmen die Möwen für alle."
)
HINDI = "नमस्ते दुनिया, यह हिन्दी में लिखा हुआ एक साधारण वाक्य है जिसमें मात्राएँ और संयुक्ताक्षर हैं।"
CODE = "def area(radius: float) -> float:\n    '''Square units.'''\n    return math.pi * radius**2\n"


def slow_repetition(text: str) -> float:
    lines = [line.strip() for line in text.split("\n") if line.strip()]
    repeated_lines = sum(len(line) for place, line in enumerate(lines) if line in lines[:place])
    words = text.lower().split()
    windows = [tuple(words[start : start + 5]) for start in range(len(words) - 4)]
    covered = set()
    for start, window in enumerate(windows):
        if window in windows[:start]:
            covered.update(range(start, start + 5))
    lines_share = repeated_lines / max(1, sum(map(len, lines)))
    return max(lines_share, sum(len(words[place]) for place in covered) / max(1, sum(map(len, words))))


@given(st.text(st.sampled_from("ab \n"), max_size=120))
def test_repetition_agrees_with_the_slow_twin(text: str) -> None:
    assert Repetition(0.5).measure(text) == pytest.approx(slow_repetition(text))


@given(st.text(max_size=60))
def test_rules_measure_any_text_and_name_themselves(text: str) -> None:
    for rule in noise_rules(CleaningConfig()):
        rejection = rule.check(text)
        assert (rejection is None) == (
            rule.measure(text) >= rule.limit if rule.rejects_below else rule.measure(text) <= rule.limit
        )
        if rejection:
            assert rejection.reason == rule.name
            assert rejection.value == rule.measure(text)


@pytest.mark.parametrize("text", [PROSE, GERMAN, HINDI, CODE, PROSE + "\n" + GERMAN])
def test_good_text_passes(text: str) -> None:
    assert first_rejection(text, noise_rules(CleaningConfig())) is None


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "too_short"),
        ("Hello.", "too_short"),
        ("=-=-=-= ### *** !!! --- +++ === ~~~ ??? ::: ... *** ||| &&& a", "symbol_ratio"),
        ("Click here to win a prize now. \n" * 12, "repetition"),
        ("all work and no play makes a dull boy " * 8, "repetition"),
        ("spam " * 2_000, "low_compression_ratio"),
    ],
)
def test_noise_is_rejected_for_its_reason(text: str, reason: str) -> None:
    rejection = first_rejection(text, noise_rules(CleaningConfig()))
    assert rejection is not None
    assert rejection.reason == reason
    assert not text or text[:20] not in rejection.detail


def test_the_boundaries_are_kept() -> None:
    assert TooShort(5).check("12345") is None
    assert TooShort(5).check("1234") is not None
    assert SymbolRatio(0.5).check("a!") is None
    assert SymbolRatio(0.5).check("a!!") is not None


def test_marks_of_indic_scripts_are_no_symbols() -> None:
    assert SymbolRatio(0.5).measure(HINDI) < 0.05


def test_compression_ratios_are_zlibs() -> None:
    encoded = base64.b64encode(random.Random(0).randbytes(3_000)).decode()
    ratio = len(zlib.compress(encoded.encode())) / len(encoded)
    assert LowCompressionRatio(0).measure(encoded) == ratio
    assert HighCompressionRatio(0.7).check(encoded) is not None
    assert HighCompressionRatio(0.7).measure(encoded[:900]) == 0


def test_rules_can_be_switched_off() -> None:
    assert noise_rules(CleaningConfig(noise_rules=False)) == ()


def test_languages_are_kept_or_rejected() -> None:
    rules = noise_rules(CleaningConfig.model_validate({"noise_rules": False, "languages": ["de", "hi"]}))
    rejection = first_rejection(PROSE, rules)
    assert rejection is not None
    assert rejection.reason == "language"
    assert rejection.detail.startswith("identified as en")
    assert [first_rejection(text, rules) for text in (GERMAN, HINDI)] == [None, None]


def test_an_unknown_language_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"'klingon'.*ISO 639-1"):
        noise_rules(CleaningConfig.model_validate({"languages": ["en", "klingon"]}))


def test_rule_names_are_distinct() -> None:
    names = Counter(rule.name for rule in noise_rules(CleaningConfig.model_validate({"languages": ["en"]})))
    assert set(names.values()) == {1}
    assert len(names) == 6


class DigitsSettings(Section):
    max_digits: float = Field(default=0.5, description="Largest share of digits.")


class Digits(Rule):
    name = "digits"
    measures = "share of digits"
    meaning = "Mostly digits."
    Settings = DigitsSettings

    def measure(self, text: str) -> float:
        return sum(map(str.isdigit, text)) / max(1, len(text))


def test_a_toy_rule_brings_its_limit_and_rejects() -> None:
    class Config(CleaningConfig, all_of([DigitsSettings])): ...

    numbers = (
        "On 2024-02-03 there were 1820 boats and 7331 gulls in port 99, of 1200 and 4500 known in 1999 there."
    )
    assert first_rejection(numbers, noise_rules(Config())) is None
    with RULES.joined(Digits):
        rejection = first_rejection(numbers, noise_rules(Config.model_validate({"max_digits": 0.2})))
        assert rejection is not None
        assert rejection.reason == "digits"
        assert rejection.detail.startswith("share of digits 0.")
        assert rejection.detail.endswith("is above 0.2")
        assert first_rejection(numbers, noise_rules(Config())) is None
        assert noise_rules(Config(noise_rules=False)) == ()
