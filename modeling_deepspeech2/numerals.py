"""Spells digits as words, as they are read in a language, by num2words, or by cn2an for Mandarin.

This module adds what those packages lack: the grouping of digits, years, hours, ordinals, halves, and the names of percent,
money and degrees. A sign or a number without a known reading stays as it is.
"""

import functools
import importlib
import itertools
import logging
import re
import unicodedata
from collections.abc import Callable
from decimal import Decimal
from typing import Any

from .errors import UserError


logger = logging.getLogger(__name__)

_LONGEST_NUMBER = 12  # digits; anything longer is a code, and is read digit by digit
_POINT_DECIMAL_LANGUAGES = {"am", "bn", "en", "he", "ja", "kn", "ko", "te", "th"}  # 1,000.5; the others write 1.000,5
_SPACES_OF_NUMBERS = "\u00a0\u2009\u202f"  # between groups of three in any language; plain spaces where the comma is decimal
_VULGAR = "[½¼¾⅐-⅞]"
_CODES = {"kk": "kz", "nb": "no", "nn": "no"}  # what num2words calls them

# Names of signs behind or before a number: one form; for one and more; or for one, two to four, and more, as Slavs count.
_SIGNS = {
    "ar": {"%": "بالمئة"},
    "az": {"%": "faiz", "€": "avro", "$": "dollar"},
    "be": {"%": "працэнт|працэнты|працэнтаў", "€": "еўра", "$": "долар|долары|долараў"},
    "bn": {"%": "শতাংশ"},
    "ca": {"%": "per cent", "€": "euro|euros", "$": "dòlar|dòlars", "°": "grau|graus"},
    "cs": {"%": "procento|procenta|procent", "€": "euro|eura|eur", "$": "dolar|dolary|dolarů", "°": "stupeň|stupně|stupňů"},
    "da": {"%": "procent", "€": "euro", "$": "dollar", "£": "pund", "°": "grad|grader"},
    "de": {"%": "prozent", "€": "euro", "$": "dollar", "£": "pfund", "°": "grad"},
    "en": {"%": "percent", "€": "euro|euros", "$": "dollar|dollars", "£": "pound|pounds", "°": "degree|degrees", "¥": "yen"},
    "eo": {"%": "procento|procentoj", "€": "eŭro|eŭroj", "$": "dolaro|dolaroj"},
    "es": {"%": "por ciento", "€": "euro|euros", "°": "grado|grados"},  # $ is a peso here, a dollar there
    "fa": {"%": "درصد", "€": "یورو", "$": "دلار", "°": "درجه"},
    "fi": {"%": "prosentti|prosenttia", "€": "euro|euroa", "$": "dollari|dollaria", "°": "aste|astetta"},
    "fr": {"%": "pour cent", "€": "euro|euros", "$": "dollar|dollars", "°": "degré|degrés"},
    "hu": {"%": "százalék", "€": "euró", "$": "dollár", "£": "font", "°": "fok"},
    "id": {"%": "persen", "€": "euro", "$": "dolar", "°": "derajat"},
    "it": {"%": "per cento", "€": "euro", "$": "dollaro|dollari", "°": "grado|gradi"},
    "ja": {"%": "パーセント", "€": "ユーロ", "$": "ドル", "£": "ポンド", "¥": "円", "°": "度"},
    "ko": {"%": "퍼센트", "€": "유로", "$": "달러", "₩": "원", "°": "도"},
    "nl": {"%": "procent", "€": "euro", "$": "dollar", "£": "pond", "°": "graad|graden"},
    "no": {"%": "prosent", "€": "euro", "$": "dollar", "£": "pund", "°": "grad|grader"},
    "pl": {
        "%": "procent", "€": "euro", "$": "dolar|dolary|dolarów", "£": "funt|funty|funtów",
        "°": "stopień|stopnie|stopni", "zł": "złoty|złote|złotych",
    },
    "pt": {"%": "por cento", "€": "euro|euros", "$": "dólar|dólares", "r$": "real|reais", "°": "grau|graus"},
    "ro": {"%": "la sută"},
    "ru": {
        "%": "процент|процента|процентов", "€": "евро", "$": "доллар|доллара|долларов", "£": "фунт|фунта|фунтов",
        "₽": "рубль|рубля|рублей", "°": "градус|градуса|градусов", "№": "номер",
    },
    "sk": {"%": "percento|percentá|percent", "€": "euro|eurá|eur", "$": "dolár|doláre|dolárov"},
    "sv": {"%": "procent", "€": "euro", "$": "dollar", "£": "pund", "°": "grad|grader"},
    "th": {"%": "เปอร์เซ็นต์", "€": "ยูโร", "$": "ดอลลาร์", "฿": "บาท", "°": "องศา"},
    "tr": {"%": "yüzde", "€": "euro", "$": "dolar", "₺": "lira", "°": "derece"},
    "uk": {
        "%": "відсоток|відсотки|відсотків", "€": "євро", "$": "долар|долари|доларів", "£": "фунт|фунти|фунтів",
        "°": "градус|градуси|градусів", "№": "номер",
    },
    "vi": {"%": "phần trăm", "$": "đô la", "₫": "đồng", "°": "độ"},
}  # fmt: skip
_READ_BEFORE = {("tr", "%"), ("en", "№"), ("ru", "№"), ("uk", "№")}

# What joins a half to a whole, a half beside a whole, and ½, ¼, ¾ by themselves.
_HALVES = {
    "ca": (" i ", "mig", "mig", "un quart", "tres quarts"),
    "cs": (" a ", "půl", "půl", "čtvrt", "tři čtvrtě"),
    "da": (" og ", "en halv", "en halv", "en fjerdedel", "tre fjerdedele"),
    "de": ("", "einhalb", "ein halb", "einviertel", "dreiviertel"),
    "en": (" and ", "a half", "half", "a quarter", "three quarters"),
    "es": (" y ", "medio", "medio", "un cuarto", "tres cuartos"),
    "fi": (" ja ", "puoli", "puoli", "neljäsosa", "kolme neljäsosaa"),
    "fr": (" et ", "demi", "un demi", "un quart", "trois quarts"),
    "hu": (" és ", "fél", "fél", "negyed", "háromnegyed"),
    "id": (" ", "setengah", "setengah", "seperempat", "tiga perempat"),
    "it": (" e ", "mezzo", "mezzo", "un quarto", "tre quarti"),
    "ja": ("と", "二分の一", "二分の一", "四分の一", "四分の三"),
    "nl": (" en ", "een half", "een half", "een kwart", "drie kwart"),
    "no": (" og ", "en halv", "en halv", "en fjerdedel", "tre fjerdedeler"),
    "pl": (" i ", "pół", "pół", "jedna czwarta", "trzy czwarte"),
    "pt": (" e ", "meio", "meio", "um quarto", "três quartos"),
    "ro": (" și ", "jumătate", "jumătate", "un sfert", "trei sferturi"),
    "ru": (" с ", "половиной", "половина", "четверть", "три четверти"),
    "sk": (" a ", "pol", "pol", "štvrť", "tri štvrte"),
    "sv": (" och ", "en halv", "en halv", "en fjärdedel", "tre fjärdedelar"),
    "uk": (" з ", "половиною", "половина", "чверть", "три чверті"),
    "vi": (" ", "rưỡi", "nửa", "một phần tư", "ba phần tư"),
}
_ENGLISH_FRACTIONS = {
    "⅓": "a third", "⅔": "two thirds", "⅕": "a fifth", "⅖": "two fifths", "⅗": "three fifths", "⅘": "four fifths",
    "⅙": "a sixth", "⅚": "five sixths", "⅛": "an eighth", "⅜": "three eighths", "⅝": "five eighths", "⅞": "seven eighths",
}  # fmt: skip
_SLASHED = {"1/2": "½", "1/4": "¼", "3/4": "¾"}  # as typed, which in other languages may be a date
_ONLY_HALVES_MIX = {"id", "ru", "uk", "vi"}  # five and a quarter has another grammar there

# Decimals that num2words reads wrongly: the word between, and then a number.
_POINTS = {
    "ar": "فاصلة", "ca": "coma", "es": "coma", "fr": "virgule", "it": "virgola", "pt": "vírgula", "ro": "virgulă",
    "tr": "virgül", "vi": "phẩy",
}  # fmt: skip

# Where "5,50 €" is read five euro fifty: what stands between.
_CENTS = {
    **dict.fromkeys(("cs", "da", "de", "fi", "fr", "nl", "no", "pl", "ru", "sk", "sv", "uk"), " "),
    **{"ca": " amb ", "en": " and ", "es": " con ", "it": " e ", "pt": " e "},
}
_ENGLISH_CENTS = {"$": "cent|cents", "€": "cent|cents", "£": "penny|pence"}
_SCALES = "million|billion|trillion|thousand|millionen|milliarden|miljoen|miljard"  # $5 million
_NUMERO = {"ca": "número", "es": "número", "fr": "numéro", "it": "numero", "pt": "número"}  # n° 5, nº 5
_POWERS = {"en": {"²": " squared", "³": " cubed"}}

_HOURS = {
    "de": ("{} uhr", "{} uhr {}"),
    "fr": ("{} heures", "{} heures {}"),
    "hu": ("{} óra", "{} óra {}"),
    "it": ("{}", "{} e {}"),
    "ja": ("{}時", "{}時{}分"),
    "pt": ("{}", "{} e {}"),
}  # the full hour, and with minutes; others read two numbers
_YEARS = {"de": "{}hundert{}", "nl": "{}honderd{}", "sv": "{}hundra{}"}  # 1100 to 1999; others: as num2words has them
_YEARS_OF_NUM2WORDS = {"da", "en", "no"}

_ORDINALS = {
    "ca": "(?:r|n|t|è)",
    "en": "(?:st|nd|rd|th)",
    "es": r"\.?(?:º|ª|er|ro|do|to|mo|vo|no)",
    "fr": "(?:ers?|re|ère|e|ème|nd|nde)",
    "it": "[ºª]",
    "nl": "(?:e|de|ste)",
    "pt": r"\.?[ºª]",
    "ru": "-?(?:й|ый)",
    "sv": ":[ae]",
    "uk": "-?й",
    # A point says so only before a month.
    "da": r"\.(?= (?:jan|feb|mar|apr|maj|jun|jul|aug|sep|okt|nov|dec))",
    "fi": r"\.(?= \w+kuu)",
    "no": r"\.(?= (?:jan|feb|mar|apr|mai|jun|jul|aug|sep|okt|nov|des))",
    "de": r"\.(?= (?:jan|jän|feb|mär|apr|mai|jun|jul|aug|sep|okt|nov|dez))",
}
# Parts of words that are written together with the number: 1980er, 3fach; 1980-talet.
_PARTS = {
    "de": r"-?(?:er|ern|fach|faches?|mal|malig\w*|jährig\w*|stündig\w*|tägig\w*|prozentig\w*)\b",
    **dict.fromkeys(("da", "no"), r"-?(?:tallet|tallets|årige?)\b"),
    "en": r"'?s\b",
    "sv": r"-?(?:talets?|årige?|årig|åriga)\b",
}
# A number with the ending of a case is read as one word, which nothing here knows.
_CASES = {
    **dict.fromkeys(("be", "bg", "ru", "uk"), r"-?[^\W\d_]{1,3}\b"),
    "fi": r":[^\W\d_]+",
    "hu": r"-?[^\W\d_]+",
    "sv": r":[^\W\d_]+",
}


def spell_numerals(text: str, language: str | None) -> str:
    """Write the digits of `text`, which is in lower case, as words.

    Raises:
        ImportError: there are digits, and the package that reads them is not installed.
    """
    if not any(map(str.isnumeric, text)) or not _is_read(language):
        return text
    text = re.sub(r"\d", lambda digit: str(unicodedata.decimal(digit[0])), text)  # Arabic-Indic and the like
    if language == "zh":
        return _spell_mandarin(text) if re.search(r"[\d½¼¾]", text) else text
    if not re.search(rf"\d|{_VULGAR}", text):
        return text
    if _package("num2words") is None:
        raise ImportError(
            f"numerals='spell' with language={language!r} needs num2words to read digits: pip install num2words"
        )
    return _reader(language).read(text)


@functools.lru_cache
def _package(name: str) -> Any:
    """num2words or cn2an, imported when a text has digits, because that takes 0.1 s; None where it is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


def check_numerals_language(language: str | None) -> None:
    """Names a language whose digits nothing here reads; they stay in the text, where they are unknown characters.

    Raises:
        UserError: no language.
    """
    if language is None:
        raise UserError("language: found None with numerals='spell', expected the language to read the digits in.")
    if not _is_read(language):
        logger.warning("numerals='spell': num2words reads no numbers in language %r, so digits stay as they are.", language)


def _is_read(language: str | None) -> bool:
    """Whether digits of the language can be read, as far as that is known without num2words."""
    num2words = _package("num2words")
    return language == "zh" or num2words is None or _CODES.get(language, language) in num2words.CONVERTER_CLASSES


_MANDARIN_SIGNS = {"$": "美元", "€": "欧元", "£": "英镑", "¥": "元"}
_MANDARIN_FRACTIONS = {"½": "二分之一", "¼": "四分之一", "¾": "四分之三"}


def _spell_mandarin(text: str) -> str:
    cn2an = _package("cn2an")
    if cn2an is None:
        raise ImportError("numerals='spell' with language='zh' needs cn2an to read digits: pip install cn2an")
    text = re.sub(r"(?<=\d),(?=\d{3}(?!\d))", "", text)
    text = re.sub(r"(?<=\d)°c", "℃", text)  # the fold of compatibility forms took apart what cn2an reads as 摄氏度
    text = re.sub(r"(\d?)([½¼¾])", lambda match: match[1] + "又" * bool(match[1]) + _MANDARIN_FRACTIONS[match[2]], text)
    text = re.sub(r"([$€£¥]) ?(\d+(?:\.\d+)?)", lambda match: match[2] + _MANDARIN_SIGNS[match[1]], text)
    text = re.sub(r"(?<![\d:])([01]?\d|2[0-4]):00(?![\d:])", r"\1点", text)
    text = re.sub(r"(?<![\d:])([01]?\d|2[0-4]):([0-5]\d)(?![\d:])", r"\1点\2分", text)
    # One hyphen between two numbers is a range; cn2an would read it as a minus sign.
    text = re.sub(r"(?<![\d.-])(?!0\d)(\d+(?:\.\d+)?)-(\d+(?:\.\d+)?)(?![\d-])", r"\1到\2", text)
    text = re.sub(r"(?<=\d)-(?=\d)", " ", text)
    text = re.sub(
        rf"(?<![\d.])(?:0\d+|\d{{{_LONGEST_NUMBER + 1},}})(?![\d.年月日/])",
        lambda code: "".join("零一二三四五六七八九"[int(digit)] for digit in code[0]),
        text,
    )
    return cn2an.transform(text, "an2cn")


@functools.lru_cache
def _reader(language: str) -> "_Reader":
    return _Reader(language)


class _Reader:
    """Reads the numbers of one alphabetic language."""

    def __init__(self, language: str):
        self.language = {"nb": "no", "nn": "no"}.get(language, language)
        self.code = _CODES.get(language, language)
        self.is_suffixing = self.language in ("az", "tr")  # 5'te is read as one word
        self.signs = _SIGNS.get(self.language, {})
        is_point = self.language in _POINT_DECIMAL_LANGUAGES
        self.separators = ".," if is_point else ",."
        self.groups, point = (f"[,{_SPACES_OF_NUMBERS}]", r"\.") if is_point else (f"[. '{_SPACES_OF_NUMBERS}]", ",")
        signs = "|".join(map(re.escape, self.signs)) or "(?!)"
        is_before = (sign not in ("%", "°", "zł") or (self.language, sign) in _READ_BEFORE for sign in self.signs)
        before = "|".join(map(re.escape, itertools.compress(self.signs, is_before))) or "(?!)"
        cases = _CASES.get(self.language, "(?!)")
        ordinal, part = (table.get(self.language, "(?!)") for table in (_ORDINALS, _PARTS))
        space = f"[ {_SPACES_OF_NUMBERS}]?"
        self.number = re.compile(
            rf"(?:(?P<before>{before}){space})?(?:(?<!\w)'(?=\d))?(?P<sign>(?<!\S)[-−])?"
            rf"(?:(?P<whole>\d{{1,3}}(?P<group>{self.groups})\d{{3}}(?:(?P=group)\d{{3}})*(?!\d)|\d+)"
            rf"(?:{point}(?P<decimals>\d+)|(?P<mixed> ?{_VULGAR})|(?P<ordinal>{ordinal})(?!\w)|(?P<part>{part})"
            rf"|(?P<case>{cases}))?|(?P<vulgar>{_VULGAR}))(?P<scale> (?:{_SCALES})\b)?"
            rf"(?:{space}(?P<after>{signs})(?P<celsius>c\b)?)?"
        )

    def say(self, value: int | Decimal, **kwargs: Any) -> str:
        words = _package("num2words").num2words(value, lang=self.code, **kwargs).lower()
        # In Arabic "and" is written together with the word after it.
        return re.sub(r"\bو ", "و", words) if self.language == "ar" else words

    def read(self, text: str) -> str:
        # Arabic separators of decimals and thousands
        if self.language == "en":
            text = re.sub(r"(?<![\d/.,])(?:1/2|1/4|3/4)(?![\d/])", lambda match: _SLASHED[match[0]], text)
        if self.language in _NUMERO:
            text = re.sub(r"\bn[°º] ?(?=\d)", f"{_NUMERO[self.language]} ", text)
        for power, name in _POWERS.get(self.language, {}).items():
            text = text.replace(power, name)
        if self.separators == ".,":  # 1,00,000 in India
            text = re.sub(r"(?<![\d,])\d{1,2}(?:,\d{2})+,\d{3}(?![\d,])", lambda match: match[0].replace(",", ""), text)
        text = re.sub(r"(?<=\d)[٫٬](?=\d)", lambda match: self.separators[match[0] == "٬"], text)
        if self.is_suffixing:
            text = re.sub(r"(?<=\d)'(?=[^\W\d_])", "", text)
        text = re.sub(r"(?<![\d:.,])([01]?\d|2[0-4]):([0-5]\d)(?![\d:])(?: uhr\b)?", self._replace(self._hour), text)
        if self.language == "fr":
            text = re.sub(r"\b([01]?\d|2[0-4]) ?h(?: ?([0-5]\d)|\b)", self._replace(self._hour), text)
        return self.number.sub(self._replace(self._number), text)

    def _replace(self, spell: Callable[[re.Match], str]) -> Callable[[re.Match], str]:
        def replace(match: re.Match) -> str:
            text = match.string
            try:
                words = spell(match)
            except Exception as error:  # num2words has gaps in some languages; the digits stay, and are named as unknown
                logger.warning("num2words does not read %r in language %r: %s", match[0], self.language, error)
                return match[0]
            following = text[match.end() : match.end() + 1]
            if self.is_suffixing and following in tuple("aeıioöuü"):
                words = re.sub("dört$", "dörd", words)
            left = " " if _is_alphabetic(text[: match.start()][-1:]) else ""
            right = " " if _is_alphabetic(following) and not self.is_suffixing else ""
            return left + words + right

        return replace

    def _hour(self, match: re.Match) -> str:
        hour, minute = int(match[1]), match[2] or ""
        hours = "ein" if self.language == "de" and hour == 1 else self.say(hour)
        if self.language == "fr":
            hours = hours[:-2] + "une" if hours.endswith("un") else hours
        if self.language == "en" and minute.startswith("0"):
            whole_hour = "o'clock" if hour <= 12 else "hundred"
            return f"{hours} {whole_hour if minute == '00' else 'oh ' + self.say(int(minute))}"
        if self.language not in _HOURS:
            return f"{hours} {self._digits(minute) if minute.startswith('0') else self.say(int(minute))}"
        whole_hour, with_minutes = _HOURS[self.language]
        words = whole_hour if minute in ("", "00") else with_minutes.format("{}", self.say(int(minute)))
        return (words.replace("heures", "heure") if hour <= 1 else words).format(hours)

    def _number(self, match: re.Match) -> str:
        whole, vulgar = re.sub(self.groups, "", match["whole"] or ""), (match["mixed"] or match["vulgar"] or "").strip()
        if match["case"]:
            return match[0].replace("-", "")  # 5-го stays one word, 5го
        sign = match["before"] or match["after"]
        if len(match["decimals"] or "") == 2 and sign in tuple("$€£₽") and self.language in _CENTS and not match["scale"]:
            return self._money(int(whole), int(match["decimals"]), sign)
        words = self._quantity(match, whole, vulgar) + (match["scale"] or "")
        for side in ("before", "after"):
            if match[side]:
                name = self._name(match[side], int(whole or 0), bool(match["decimals"] or vulgar or match["scale"]))
                words = f"{name} {words}" if (self.language, match[side]) in _READ_BEFORE else f"{words} {name}"
        return words + " celsius" if match["celsius"] and self.language != "ja" else words

    def _quantity(self, match: re.Match, whole: str, vulgar: str) -> str:
        sign, decimals = -1 if match["sign"] else 1, match["decimals"]
        if vulgar:
            return self._mixed(whole, vulgar)
        if len(whole) > _LONGEST_NUMBER or (len(whole) > 1 and whole.startswith("0")):
            words = self._digits(whole + (decimals or "")) + (match["ordinal"] or "")
        elif decimals is not None:
            words = self._decimal(sign, whole, decimals)
        elif match["ordinal"]:
            words = self._ordinal(int(whole), match["ordinal"], match.string[: match.start()])
        elif 1100 <= int(whole) <= 2099 and not (match["group"] or match["sign"] or match["before"] or match["after"]):
            words = self._year(int(whole))
        else:
            words = self.say(sign * int(whole))
        if match["part"] and self.language == "en":  # 1980s, 1900s, 6s
            return words[:-1] + "ies" if words.endswith("y") else words + ("es" if words.endswith("x") else "s")
        return words + (match["part"] or "").lstrip("-")

    def _money(self, whole: int, cents: int, sign: str) -> str:
        amount = f"{self.say(whole)} {self._name(sign, whole, False)}"
        if not cents:
            return amount
        unit = ""
        if self.language == "en" and sign in _ENGLISH_CENTS:
            unit = " " + _ENGLISH_CENTS[sign].split("|")[cents != 1]
        return amount + _CENTS[self.language] + self.say(cents) + unit

    def _digits(self, digits: str) -> str:
        return " ".join(self.say(int(digit)) for digit in digits)

    def _decimal(self, sign: int, whole: str, decimals: str) -> str:
        if self.language == "en":
            # The fraction apart, because num2words leaves out the zeros at its end.
            return "minus " * (sign < 0) + f"{self.say(int(whole))} point {self._digits(decimals)}"
        if self.language in _POINTS:
            significant = decimals.lstrip("0")
            read = [
                self._digits("0" * (len(decimals) - len(significant))),
                self.say(int(significant)) if significant else "",
            ]
            return " ".join(filter(None, [self.say(sign * int(whole)), _POINTS[self.language], *read]))
        return self.say(sign * Decimal(f"{whole}.{decimals}"))

    def _mixed(self, whole: str, vulgar: str) -> str:
        if self.language not in _HALVES:
            raise ValueError("fractions are not known here")
        joint, beside, half, quarter, three_quarters = _HALVES[self.language]
        alone = {"½": half, "¼": quarter, "¾": three_quarters}
        alone |= _ENGLISH_FRACTIONS if self.language == "en" else {}
        if vulgar not in alone or (whole and vulgar != "½" and self.language in _ONLY_HALVES_MIX):
            raise ValueError("this fraction is not known here")
        if not whole:
            return alone[vulgar]
        number = self.say(int(whole)) if (self.language, whole) != ("de", "1") else "ein"
        return number + joint + (beside if vulgar == "½" else alone[vulgar])

    def _year(self, year: int) -> str:
        if self.language in _YEARS_OF_NUM2WORDS and (year < 2000 or self.language == "en"):
            return self.say(year, to="year")
        if self.language in _YEARS and year < 2000:
            rest = self.say(year % 100) if year % 100 else ""
            return _YEARS[self.language].format(self.say(year // 100), rest)
        return self.say(year)

    def _ordinal(self, value: int, suffix: str, before: str) -> str:
        words = self.say(value, to="ordinal")
        if self.language == "de":  # der dritte, am dritten, dritter Mai
            stem = words.removesuffix("e")
            if re.search(r"\b(?:der|die|das) $", before):
                return stem + "e"
            return stem + ("en" if re.search(r"\b(?:am|bis|dem|den|des|im|vom|zum|ab|seit) $", before) else "er")
        if self.language == "fr" and value == 1:
            return "première" if suffix in ("re", "ère") else "premier"
        if suffix.endswith("ª"):
            return re.sub(r"o\b", "a", words)
        if self.language == "es" and suffix.endswith("er"):
            return re.sub(r"(prim|terc)ero$", r"\1er", words)
        return words

    def _name(self, sign: str, number: int, is_broken: bool) -> str:
        """The name of a sign in the form that goes with a number."""
        forms = self.signs[sign].split("|")
        if len(forms) == 3:
            if is_broken:
                return forms[1]
            if self.language in ("cs", "sk"):
                return forms[0 if number == 1 else 1 if 2 <= number <= 4 else 2]
            is_one = number == 1 if self.language == "pl" else number % 10 == 1 and number % 100 != 11
            is_few = 2 <= number % 10 <= 4 and not 12 <= number % 100 <= 14
            return forms[0 if is_one else 1 if is_few else 2]
        is_one = number <= 1 if self.language in ("fr", "pt") else number == 1 and not is_broken
        return forms[0] if is_one else forms[-1]


def _is_alphabetic(character: str) -> bool:
    """Whether `character` is a letter or a mark, which a word beside it would run into."""
    return character != "" and unicodedata.category(character)[0] in "LM"
