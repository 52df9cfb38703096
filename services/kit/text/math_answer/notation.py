r"""One notation for the many ways to write an answer. Only layout is dropped; what has a meaning stays. Pure.

Texts of `\text{...}` stand between the marks `TEXT` and `END` afterwards, so that a word is no product of letters.
"""

import re

TEXT, END = "\ue000", "\ue001"
PERCENT = "\ue002"
DOLLAR = "\ue003"

_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ", "0123456789+-n")
_SUBSCRIPTS = str.maketrans("₀₁₂₃₄₅₆₇₈₉", "0123456789")
_SYMBOLS = {
    "−": "-", "–": "-", "—": "-", "‐": "-", "×": r"\times ", "·": r"\cdot ", "⋅": r"\cdot ", "∗": "*",
    "÷": "/", "⁄": "/", "∕": "/",
    "π": r"\pi ", "∞": r"\infty ", "≤": r"\le ", "≥": r"\ge ", "≠": r"\ne ", "∪": r"\cup ", "∩": r"\cap ", "∈": r"\in ",
    "∅": r"\emptyset ", "ℝ": r"\mathbb{R}", "ℤ": r"\mathbb{Z}", "°": r"^\circ ", "±": r"\pm ", "∓": r"\mp ",
    "≡": r"\equiv ",
    "≈": r"\approx ", "∨": r"\lor ", "∧": r"\land ", "∖": r"\setminus ", "′": "'", "’": "'", "‘": "'",
    "“": '"', "”": '"',
    "½": r"\frac{1}{2}", "⅓": r"\frac{1}{3}", "⅔": r"\frac{2}{3}", "¼": r"\frac{1}{4}", "¾": r"\frac{3}{4}",
    "⅛": r"\frac{1}{8}",
    "α": r"\alpha ", "β": r"\beta ", "γ": r"\gamma ", "θ": r"\theta ", "λ": r"\lambda ", "φ": r"\phi ", "ω": r"\omega ",
    "：": ":", "，": ",", "；": ";", "（": "(", "）": ")", "、": ",", "％": "%", "．": ".", "…": r"\ldots ",
    "\u00a0": " ", "\u2009": r"\,", "\u202f": r"\,", "\u2002": " ", "\u2003": " ", "\u3000": " ",
    "⟨": r"\langle ", "⟩": r"\rangle ", "⌊": r"\lfloor ", "⌋": r"\rfloor ", "⌈": r"\lceil ", "⌉": r"\rceil ",
}  # fmt: skip
_SYMBOLS |= {chr(ord("０") + digit): str(digit) for digit in range(10)}
_SYMBOL = re.compile("[" + "".join(_SYMBOLS) + "]")
_SUPERSCRIPT = re.compile("[⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ]+")
_SUBSCRIPT = re.compile("[₀₁₂₃₄₅₆₇₈₉]+")
_UNICODE_ROOT = re.compile(r"√\s?(?:\(([^()]*)\)|(\d+(?:\.\d+)?|[a-zA-Z]))")
_PLAIN_ROOT = re.compile(r"(?<![\\a-zA-Z])sqrt\s?(?:\(([^()]*)\)|\{([^{}]*)\})")

_THIN_THOUSANDS = re.compile(r"(?<=\d)(?:\{,\}|,\\!|\\,|\\ )(?=\d{3}(?!\d))")
_LAYOUT = re.compile(
    r"\\(?:left|right|[bB]ig{1,2}[lrm]?|displaystyle|textstyle|limits|nolimits|phantom\{[^{}]*\}|hspace\{[^{}]*\}|mathstrut|strut)"
    r"(?![a-zA-Z])\.?|\\[!;:>]|\\label\{[^{}]*\}|\\tag\*?\{[^{}]*\}"
)
_SPACE = re.compile(r"(?<!\\)\\(?:quad|qquad|thinspace|,|\s|$)|~")
_TEXT_COMMAND = re.compile(
    r"\\(?:text(?:bf|it|rm|sf|tt|sc|normal|up)?|mathrm|mathbf|mathit|mathsf|mathtt|mbox|hbox|operatorname\*?|boldsymbol|bm|emph|rm|bf)"
    r"\s{0,4}\{([^{}]*)\}"
)
_OPERATORS = frozenset(
    [
        "lcm",
        "gcd",
        "max",
        "min",
        "sin",
        "cos",
        "tan",
        "cot",
        "sec",
        "csc",
        "log",
        "ln",
        "exp",
        "arcsin",
        "arccos",
        "arctan",
        "sinh",
        "cosh",
        "tanh",
        "det",
        "mod",
        "deg",
    ]
)
_SIMPLE_RENAMES = (
    (re.compile(r"\\[dtc]frac(?![a-zA-Z])"), r"\\frac"),
    (re.compile(r"\\[dt]binom(?![a-zA-Z])"), r"\\binom"),
    (re.compile(r"(?<![\\a-zA-Z])(?:inf|oo|[iI]nfinity)(?![a-zA-Z])"), r"\\infty "),
    (re.compile(r"(?<=\d)(?:\s{1,4}x\s{1,4}(?=\d)|x(?=10(?:\^|\*\*)))"), r"\\times "),
    (re.compile(r"\\(?:leq|leqslant|leqq)(?![a-zA-Z])|<=|=<"), r"\\le "),
    (re.compile(r"\\(?:geq|geqslant|geqq)(?![a-zA-Z])|>=|=>"), r"\\ge "),
    (re.compile(r"\\neq(?![a-zA-Z])|!=|\\not\s?="), r"\\ne "),
    (re.compile(r"\\lt(?![a-zA-Z])"), "<"),
    (re.compile(r"\\gt(?![a-zA-Z])"), ">"),
    (re.compile(r"\\(?:lbrace|{)"), r"\\{"),
    (re.compile(r"\\(?:rbrace|})"), r"\\}"),
    (re.compile(r"\\lbrack(?![a-zA-Z])"), "["),
    (re.compile(r"\\rbrack(?![a-zA-Z])"), "]"),
    (re.compile(r"\\(?:varnothing|O)(?![a-zA-Z])"), r"\\emptyset "),
    (re.compile(r"\\(?:vee|lor)(?![a-zA-Z])"), f" {TEXT}or{END} "),
    (re.compile(r"\\(?:wedge|land)(?![a-zA-Z])"), f" {TEXT}and{END} "),
    (re.compile(r"\\mathbb\s?\{?([RZQNC])\}?|\\(R|Z|N|C)(?![a-zA-Z])"), r"\\mathbb{\1\2}"),
    (re.compile(r"\\(?:mid|vert|lvert|rvert)(?![a-zA-Z])"), "|"),
    (re.compile(r"\^\s?\{?\s?\\(?:circ|degree)\s?\}?|\\degree(?![a-zA-Z])"), f" {TEXT}degrees{END} "),
    (re.compile(r"\\backslash(?![a-zA-Z])"), r"\\setminus "),
    (re.compile(r"\\(?:colon)(?![a-zA-Z])"), ":"),
    (re.compile(r"\{([^{}]*)\\choose(?![a-zA-Z])([^{}]*)\}"), r"\\binom{\1}{\2}"),
    (re.compile(r"\\exp(?![a-zA-Z])\s?[({]([^(){}]*)[)}]"), r"e^{\1}"),
)  # fmt: skip
_TWO_ARGUMENTS = re.compile(r"\\(?:frac|binom)(?![a-zA-Z])")
_BARE_OF_TWO = re.compile(r"\s*([0-9a-zA-Z]|\\[a-zA-Z]+(?![a-zA-Z{]))")
_BARE_ARGUMENT = re.compile(r"(\\sqrt(?:\[[^\[\]{}]*\])?)\s*(\d+|[a-zA-Z](?![a-zA-Z])|\\[a-zA-Z]+(?![{a-zA-Z]))")
_BARE_EXPONENT = re.compile(r"\^\s*([-+]?\d+(?:\.\d+)?|[a-zA-Z])")
_BARE_SUBSCRIPT = re.compile(r"_\s*(\d+)")
_COMPUTER_POWER = re.compile(r"(?<=[\d.])[eE]([-+]?\d{1,4})(?![\w.])")
_DELIMITERS = re.compile(r"\\[()\[\]]")
_PROGRAM_POWER = re.compile(r"(?<=[\w)\]}])\s?\*\*\s?(?=[\w({\\+-])")
_PROGRAM_THOUSANDS = re.compile(r"(?<![\w.])\d{1,3}(?:_\d{3})+(?![\w{])")
_MARKDOWN = re.compile(r"\*\*|__|`")


def unify(text: str) -> str:
    """The text in one notation; empty of layout, with plain spaces."""
    text = _MARKDOWN.sub("", _PROGRAM_POWER.sub("^", text))
    text = _without_delimiters(text.strip())
    text = _UNICODE_ROOT.sub(lambda m: rf"\sqrt{{{m[1] or m[2]}}}", text)
    text = _SUPERSCRIPT.sub(lambda m: f"^{{{m.group().translate(_SUPERSCRIPTS)}}}", text)
    text = _SUBSCRIPT.sub(lambda m: f"_{{{m.group().translate(_SUBSCRIPTS)}}}", text)
    text = _SYMBOL.sub(lambda m: _SYMBOLS[m.group()], text)
    text = _THIN_THOUSANDS.sub("", text)
    text = _PROGRAM_THOUSANDS.sub(lambda m: m.group().replace("_", ""), text)
    text = _LAYOUT.sub("", text)
    for pattern, replacement in _SIMPLE_RENAMES:
        text = pattern.sub(replacement, text)
    text = _unwrap_texts(text)
    text = _SPACE.sub(" ", text)
    text = _PLAIN_ROOT.sub(lambda m: rf"\sqrt{{{m[1] or m[2]}}}", text)
    text = text.replace(r"\%", PERCENT).replace("%", PERCENT)
    text = _BARE_ARGUMENT.sub(r"\1{\2}", text)
    text = _BARE_EXPONENT.sub(r"^{\1}", text)
    text = _BARE_SUBSCRIPT.sub(r"_{\1}", text)
    text = _COMPUTER_POWER.sub(r"\\cdot 10^{\1}", text)
    return _stripped(_braced_arguments(text))


def _without_delimiters(text: str) -> str:
    """Without math delimiters. A dollar sign that delimits nothing is a currency."""
    text = _DELIMITERS.sub(" ", text)
    text = text.replace(r"\$", DOLLAR).replace("$$", "$")
    pieces = text.split("$")
    is_paired = len(pieces) % 2 == 1 and all(piece == piece.strip() or len(pieces) == 3 for piece in pieces[1::2])
    if is_paired and not (len(pieces) == 3 and pieces[1] != pieces[1].strip() and pieces[0].strip()):
        return " ".join(pieces) if len(pieces) > 1 else text
    return DOLLAR.join(pieces)


def _unwrap_texts(text: str) -> str:
    for _ in range(3):  # texts within texts
        text, count = _TEXT_COMMAND.subn(_marked_text, text)
        if not count:
            break
    return re.sub(rf"{END}\s*{TEXT}", " ", text)


def _marked_text(match: re.Match[str]) -> str:
    content = match[1].replace(TEXT, "").replace(END, "").strip()
    if content in _OPERATORS:
        return rf"\{content} "
    if (
        not re.search("[a-zA-Z]", content)
        or len(content) == 1
        or content[:1].isdigit()
        or re.search(r"[=<>\\+]", content)
    ):
        return f" {content} "
    return f" {TEXT}{content}{END} "


def _braced_arguments(text: str) -> str:
    r"""`\frac12` as `\frac{1}{2}`; from right to left, so that fractions within fractions are braced first."""
    for fraction in reversed(list(_TWO_ARGUMENTS.finditer(text))):
        position = fraction.end()
        for _ in range(2):
            argument = _BARE_OF_TWO.match(text, position)
            if argument is not None:
                text = f"{text[: argument.start()]}{{{argument[1]}}}{text[argument.end() :]}"
            position = group_end(text, position)
    return text


def group_end(text: str, start: int) -> int:
    """Where the braces that open at `start` close; `start` where none open there, the end where they do not close."""
    while start < len(text) and text[start] == " ":
        start += 1
    if text[start : start + 1] != "{":
        return start
    depth = 0
    for position in range(start, len(text)):
        depth += {"{": 1, "}": -1}.get(text[position], 0)
        if depth == 0:
            return position + 1
    return len(text)


def _stripped(text: str) -> str:
    text = " ".join(text.split()).strip()
    while text and not text.endswith("..") and (text[-1] in ",;:" or (text[-1] == "." and not text.endswith(".m."))):
        text = text[:-1].rstrip()
    return text
