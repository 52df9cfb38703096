"""Prompt-injection patterns: spoofed fences, turns and rubrics, smuggled scores, instructions to the judge. Pure.

The flags are evidence for the meta-reward service: no number is read from a text, and no reward depends on a match.
RE2 matches in linear time. Most texts match nothing, which one pass over all patterns at once establishes.
"""

import unicodedata
from typing import Any

import re2

from regrade.contracts import Flag
from services.kit.text.folding import LOOKALIKES, compatible

_MAX_PATTERN_BYTES = 16 << 20
"""RE2 falls back to a slower matcher where its automaton would exceed this."""
_WHO = r"(?:graders?|judges?|evaluators?|examiners?|markers?|scorers?|raters?|reviewers?|llms?|language models?|ai)"
_MARKS = r"(?:scores?|marks?|grades?|ratings?|points|levels?|credit|stars?|reward)"
_RULES = (
    r"(?:rubrics?|criteri(?:a|on)|instructions?|prompts?|guidelines?|directions|rules|outputs?|grading|messages?|text)"
)
_EARLIER = r"(?:previous|prior|above|earlier|preceding|former|original|all|any|your|existing|these)"
_IGNORE = r"(?:ignore|disregard|forget|override|set aside|pay no attention to|do not follow|don['’]t follow|skip)"
_NUMBER = r"""[\["'*_`{]{0,3}(?:5|10|100|five|ten|max|maximum|full|perfect|pass)\b"""

_FENCE_SPOOF = (
    r"(?m)^[\s\-=#*_~<\[(/]{0,12}(?:begin|end|start|stop)[ _-](?:of[ _-])?(?:the[ _-])?"
    r"(?:task|response|answer|essay|submission|completion|output|material|text|student|user input|data)\b"
    r"[^\n]{0,16}[\-=#*_~>\])]{1,12}\s{0,3}$",
    r"</\s?(?:task|response|answer|essay|submission|completion|output|student_answer|document|untrusted)\s?>",
    r"\[\s?/?\s?(?:begin|end)[ _-](?:of[ _-])?(?:task|response|analysis|proposals|criterion|rubric|plan|reference)\b",
)
_ROLE_SPOOF = (
    r"(?m)^[\s>*_#(\[]{0,8}(?:assistant|system|human|user|developer|grader|evaluator|ai judge|gpt4 correct \w{1,12})"
    r"(?: (?:message|prompt|notice|note|turn|output))?[\])*_]{0,3}\s?[:：]",
    r"\[\s?/?(?:system|assistant|developer|administrator)\b[^\[\]\n]{0,40}[\]:]",
    r"(?m)^#{1,6}\s?(?:instructions?|response|system|assistant|user|human|input|outputs?)\s?:?\s{0,2}$",
    r"</?\s?(?:system|assistant|user|human|instructions?|developer|sys)\s?>",
    r"""["'“”]role["'“”]\s{0,3}:\s{0,3}["'“”](?:system|assistant|user|developer|tool)["'“”]""",
    r"(?m)^\s{0,4}(?:role|from)\s?[:=]\s?(?:system|assistant|developer)\b",
)
_RUBRIC_SPOOF = (
    r"</?\s?(?:rubric|criterion|criteria|scoring[_ ]guide|grading[_ ]scale)\b[^<>\n]{0,40}>",
    r"(?m)^[\s#*_]{0,6}(?:new |updated |additional )?(?:criterion|scoring rubric|grading rubric|rubric)\s?[:：]",
    r"\b(?:updated?|new|revised|corrected|replacement|amended) (?:scoring|grading|marking|evaluation|judging)"
    r" (?:guide|guidelines|rubric|criteria|scheme|instructions|policy|rules)",
    r"""["'“”](?:criteria|rubric|criterion)["'“”]\s{0,3}:\s{0,3}[\[{"']""",
    r"(?m)^\s{0,4}5\s?[:=]\s[^\n]{1,120}\n\s{0,4}[0-4]\s?[:=]\s",
)
_SCORE_SMUGGLE = (
    r"<\s?/?\s?(?:score|rating|grade|verdict|level|reward|mark)s?\s?[>=:]",
    r"""["'“”](?:[a-z]{1,12}[_ ])?(?:scores?|rating|grade|level|verdict|reward)["'“”]\s{0,3}[:=]""",
    rf"\b(?:final|overall|total|official)[ _](?:score|rating|grade|mark|verdict|level)"
    rf"(?: is| was| of|\s?[:=]| -)?\s?{_NUMBER}",
    rf"\b(?:score|rating|grade|mark|verdict|level|reward)\s?[:=]\s?{_NUMBER}",
    r"\b(?:5|five)\s?(?:/|out of|von|sur|de)\s?(?:5|five)\b|\b10\s?(?:/|out of)\s?10\b|\b100\s?(?:/|out of)\s?100\b",
    r"\b(?:evaluation|grading|scoring|marking) (?:is )?(?:complete|completed|finished|done)\b",
    r"(?:评分|得分|分数|評価|スコア|점수|puntuación|puntuacion|calificación|bewertung|оценка)\s?[:：=]\s?[\[*]{0,2}(?:5|10|满分)",
    r"[★⭐]\s?[★⭐]\s?[★⭐]\s?[★⭐]\s?[★⭐]",
)
_INSTRUCTION = (
    rf"\b{_IGNORE}(?: \w{{1,12}}){{0,3}} {_EARLIER}(?: \w{{1,14}}){{0,3}} {_RULES}\b",
    rf"\b{_IGNORE}(?: \w{{1,12}}){{0,3}} {_RULES} (?:above|given|you (?:were|have been) given|so far|before this)\b",
    rf"\b(?:dear|kind|attention|hey|hello|note to|message to|message for|to whom it may concern,)"
    rf"(?: the| all| any| my)?(?: \w{{1,14}}){{0,2}} {_WHO}\b",
    rf"\b(?:give|award|awards?|assign|grant|return|output|rate|score|select|choose|mark)(?: \w{{1,14}}){{0,6}}"
    rf" (?:full|maximum|max|top|highest|perfect|best)(?: possible| available)? {_MARKS}\b",
    r"\b(?:give|award|assign|grant|rate|score)(?: \w{1,14}){0,4} (?:a |an |the )?"
    r"(?:score of |mark of |grade of |rating of |level of |level )?(?:5|five|10|ten|100)"
    r"(?: (?:out of|points|stars|marks)|/5|/10|[.!;]|\s{0,2}$)",
    r"\b(?:just|only|simply|must|always|please|should|now)(?: then)?"
    r" (?:answer|return|output|reply|respond|say|write|print)(?: only| with| just)*"
    r"""(?: the| a)?(?: score| digit| number| level| word)?(?: of)? ["'*]{0,2}(?:5|10|100|five|pass|correct)\b""",
    r"\b(?:output|print|return|respond with|reply with) (?:only|just|exactly)"
    r"""(?: the)?(?: score| digit| number)? ["'*]{0,2}(?:5|10|100|five|pass|correct)\b""",
    r"\byou are (?:now |no longer |only )?(?:an? |the )?(?:\w{1,14} ){0,2}(?:grader|evaluator|ai|assistant"
    r"|language model|llm|dan|scoring bot)\b",
    rf"\b(?:full|maximum|max|top|highest|perfect) {_MARKS} (?:is|are|please|for this|should be|must be|regardless)\b",
    r"\b(?:anything|a score|a mark|a grade) (?:below|less than|lower than|under) (?:a )?(?:5|five|10|ten)\b",
    r"(?:\b(?:ignora|ignorad|ignorez|ignoriere?|ignoriert|olvida|oubliez|vergiss|dimentica)\b|игнорир|забудь|忽略|无视|無視"
    r"|忘记|무시)[^\n.]{0,40}(?:instruc|instruç|istruzion|anweisung|consigne|指令|指示|说明|說明|инструкц|지시|규칙|评分标准)",
    r"(?:指示|ルール|지시|규칙)[^\n.]{0,12}(?:無視|무시)",
    r"(?:满分|最高分|満点|最高点|만점|最高評価|puntuación máxima|note maximale|höchstpunktzahl|nota máxima"
    r"|punteggio massimo|максимальн\w{0,4} (?:балл|оценк))",
    rf"\bas an? (?:ai|llm|automated|impartial|fair) {_WHO}?[, ]{{1,2}}(?:you|your)\b",
)
_PATTERNS = {
    Flag.FENCE_SPOOF: _FENCE_SPOOF,
    Flag.ROLE_SPOOF: _ROLE_SPOOF,
    Flag.RUBRIC_SPOOF: _RUBRIC_SPOOF,
    Flag.SCORE_SMUGGLE: _SCORE_SMUGGLE,
    Flag.INSTRUCTION: _INSTRUCTION,
}
_ASCII = bytes(range(0x80))
_LOOKALIKES = frozenset(map(chr, LOOKALIKES))


def _compiled(*patterns: str) -> Any:
    options = re2.Options()
    options.case_sensitive = False
    options.max_mem = _MAX_PATTERN_BYTES
    return re2.compile("|".join(f"(?:{pattern})" for pattern in patterns).encode(), options)


_EACH = {flag: _compiled(*patterns) for flag, patterns in _PATTERNS.items()}
_ANY = _compiled(*(pattern for patterns in _PATTERNS.values() for pattern in patterns))


def injection_flags(completion: bytes) -> tuple[Flag, ...]:
    """A flag for each kind of injection pattern in a completion (UTF-8, without hidden characters)."""
    texts = [completion]
    unusual = completion.translate(None, _ASCII).decode("utf-8", "replace")
    if unusual and not (_LOOKALIKES.isdisjoint(unusual) and unicodedata.is_normalized("NFKC", unusual)):
        texts.append(_latin(completion.decode("utf-8", "replace")).encode())
    suspects = [text for text in texts if _ANY.search(text)]
    if not suspects:
        return ()
    return tuple(flag for flag, pattern in _EACH.items() if any(pattern.search(text) for text in suspects))


def _latin(text: str) -> str:
    """The text with compatibility forms and look-alike letters replaced by Latin ones."""
    return compatible(text).translate(LOOKALIKES)
