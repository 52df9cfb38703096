"""Guards: completions that get reward 0 without a judge call. Pure."""

import re

from regrade.contracts import Flag
from regrade.contracts.content import MAX_TEXT
from services.kit.text.fence import without_control_tokens
from services.kit.text.folding import folded
from services.kit.text.segments import MARKS
from services.reward.items.text import PreparedText

_SEGMENT = re.compile(r"[^\n.:!?。：！？|<>{}\\]+")
_MARKUP = re.compile(r"\\(?:(?:begin|end)\{[a-z*]{1,20}\}|(?:[a-z]{0,8}box(?:ed)?|(?:text|math)[a-z]{0,8})(?![a-z]))")
"""Commands of LaTeX that enclose and say nothing themselves."""
_NO_WORD = re.compile(rf"(?:[^\w{MARKS}]|_)+")
_ANNOUNCEMENT = re.compile(rf"[\s#>*_~|-]*+(\w[\w{MARKS} ]*+)[\s*_~]*+[:：][\s*_~|]*+")
_MIN_ANNOUNCEMENT_BYTES = 6
"""A line of so many letters that ends in a colon promises what does not come; "Yes:" and "else:" may be answers."""

# Texts that announce an answer and give none; many judges award full marks to one of them alone (arXiv 2507.08794).
# None may be an answer: "Yes.", "B" and "42" are for the judge.
_OPENERS = """
solution; the solution; solution is; final solution; answer; the answer; the answer is; the final answer is;
final answer; answer is; response; explanation; reasoning; reasoning process; thought process;
thinking process; chain of thought; step by step; step by step solution; step; let us think step by step;
lets think step by step; lets think; lets solve this problem step by step; let us solve this problem step by step;
lets solve this step by step; lets work through this step by step; lets break this down step by step;
lets work this out in a step by step way to be sure we have the right answer; to solve this problem;
to solve this problem we need to; we need to; here is my answer; here is the answer; here is the solution;
here is the essay; here is my essay; here is my response; heres the answer; heres my answer; heres the essay;
sure here is the answer; sure heres the answer; sure here is the essay; sure heres the essay; sure here you go;
certainly here is the essay; certainly here is the answer; begin enumerate; begin itemize; begin aligned;
you are a helpful assistant; i am ready when you are; im ready when you are; please provide the instruction;
please provide the instructions; please provide the essay prompt; please provide the prompt; please provide the task;
please provide the topic; as an ai language model; no answer provided; essay; my essay;
解; 解答; 解析; 答案; 最终答案; 思考过程; 解题过程; 让我们一步一步地思考; 让我们逐步思考; 让我们一步一步来解决这个问题;
かいせつ; 解説; かいとう; 回答; 答え; 最終的な答え; 思考プロセス;
ステップバイステップで考えましょう; 풀이; 해설; 정답; 해답; 풀이 과정;
단계별로 생각해 봅시다; respuesta; la respuesta es; respuesta final; solución; la solución; explicación; razonamiento;
proceso de pensamiento; pensemos paso a paso; réponse; la réponse est; réponse finale; explication; raisonnement;
processus de réflexion; réfléchissons étape par étape; lösung; die lösung; antwort; die antwort ist; endgültige antwort;
erklärung; gedankengang; denken wir schritt für schritt; lassen sie uns schritt für schritt denken; resposta;
resposta final; solução; explicação; raciocínio; vamos pensar passo a passo; soluzione; risposta; risposta finale;
spiegazione; ragionamento; pensiamo passo dopo passo; oplossing; antwoord; rozwiązanie; odpowiedź; решение; ответ;
окончательный ответ; объяснение; ход мыслей; давайте подумаем шаг за шагом; рішення; відповідь; çözüm; cevap;
adım adım düşünelim; lời giải; đáp án; الحل; الجواب; الإجابة; الإجابة النهائية; دعونا نفكر خطوة بخطوة; समाधान; उत्तर; हल;
चलिए चरण दर चरण सोचते हैं; jawaban; penyelesaian; คำตอบ; วิธีทำ; lösning; svar
"""


def guard(completion: PreparedText, *, max_chars: int, task: str = "") -> Flag | None:
    """Why this completion gets reward 0; None if it is to be judged.

    `task` is the prompt and the reference: a placeholder ("N/A") that they name is an answer.
    """
    text = completion.raw
    if not text.strip():
        return Flag.EMPTY
    if len(text) > max_chars or len(text) >= MAX_TEXT:  # one of that length may have been cut there
        return Flag.TOO_LONG
    content = without_control_tokens(text) if completion.flags else text
    if any(map(str.isalnum, content)):
        return Flag.NO_CONTENT if _says_nothing(content, task) else None
    return Flag.CONTROL_TOKENS_ONLY if any(map(str.isalnum, text)) else Flag.PUNCTUATION_ONLY


def _says_nothing(text: str, task: str) -> bool:
    """Whether every line is empty, announces something, or consists of openers, placeholders and markup."""
    placeholders = set()
    for line in _MARKUP.sub(" ", text).split("\n"):
        announced = _ANNOUNCEMENT.fullmatch(line)
        if announced and len(folded(announced[1]).encode()) >= _MIN_ANNOUNCEMENT_BYTES:
            continue
        for segment in _SEGMENT.finditer(line):
            bare = _bare(segment.group())
            if bare in _PLACEHOLDERS:
                placeholders.add(bare)
            elif bare and bare not in _BARE_OPENERS:
                return False
    return not placeholders or not any(f" {placeholder} " in f" {_bare(task)} " for placeholder in placeholders)


def _bare(text: str) -> str:
    """The words without case, accents, punctuation, markup and look-alikes, separated by one space."""
    return _NO_WORD.sub(" ", folded(text.replace("'", "").replace("’", ""))).strip()


_PLACEHOLDERS = {"n a"}
"""Stand where an answer belongs, and are one where the task provides for them."""
_BARE_OPENERS = frozenset(_bare(opener) for opener in _OPENERS.split(";"))
