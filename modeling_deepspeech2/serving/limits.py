"""The limits on what a client may ask of the server, and the errors for exceeding them."""

from dataclasses import dataclass

from ..errors import UserError


@dataclass(frozen=True)
class Limits:
    """Sizes and times that hold for every client."""

    max_streams: int = 100  # live, open at the same time
    max_mb: float = 25.0  # of an uploaded file with its form
    max_file_seconds: float = 4 * 3600.0  # of audio in a file, by its header and while it is decoded
    max_waiting_files: int = 16  # uploads at the same time; one after the other is transcribed
    max_waiting_mb: float = 400.0  # of all bodies that are held at the same time
    upload_seconds: float = 120.0  # for a request's body to come
    idle_seconds: float = 60.0  # without a message on a live connection
    waiting_seconds: float = 10.0  # of audio that a live stream may have waiting before its socket is not read
    patience_seconds: float = 30.0  # for that to shrink, or for a client to read its answers
    max_message_bytes: int = 2**20  # of one message of a live connection
    max_hotwords: int = 200
    max_hotword_length: int = 60  # characters
    lowest_rate: int = 8_000  # hertz, of live audio
    highest_rate: int = 48_000
    shutdown_seconds: float = 10.0  # for live streams to get their last text


LONGEST_MESSAGE = 400  # characters


class Refusal(UserError):
    """A request that is not served: a sentence for the client, and the codes that its protocol needs.

    Args:
        message: which field, what was found, what was expected.
        reason: one word or two, as metrics count them.
        status: of HTTP.
        close_code: of a websocket (RFC 6455, section 7.4).
        param: the field of the request.
    """

    def __init__(
        self, message: str, reason: str = "invalid_request", status: int = 400, close_code: int = 1008, param: str = ""
    ):
        # What a client sent may be part of it: long, or half a pair of surrogates, which no answer can hold.
        super().__init__(message[:LONGEST_MESSAGE].encode(errors="replace").decode())
        self.reason, self.status, self.close_code, self.param = reason, status, close_code, param or None


def overloaded(what: str) -> Refusal:
    """The server has no room; the client may try again later."""
    return Refusal(f"The server is busy: {what}; try again later.", "overloaded", 503, 1013)


def check_hotwords(hotwords: object, limits: Limits) -> dict[str, float] | None:
    """Hot words of a request: an object of words and weights, or nothing.

    Raises:
        Refusal: anything else, too many of them, or too long ones. Their alphabet is checked by the decoder.
    """
    if hotwords is None or hotwords == {}:
        return None
    if not isinstance(hotwords, dict):
        raise Refusal('hotwords: expected an object of words and weights, such as {"kitchen": 5}.', param="hotwords")
    if len(hotwords) > limits.max_hotwords:
        message = f"hotwords: found {len(hotwords)}, expected at most {limits.max_hotwords}."
        raise Refusal(message, "too_many_hotwords", param="hotwords")
    for word, weight in hotwords.items():
        if not 0 < len(word) <= limits.max_hotword_length:
            message = f"hotwords: found a word of {len(word)} characters, expected 1 to {limits.max_hotword_length}."
            raise Refusal(message, param="hotwords")
        if isinstance(weight, bool) or not isinstance(weight, (int, float)) or not 0 <= weight <= 100:
            raise Refusal(f"hotwords: the weight of {word!r} must be a number from 0 to 100.", param="hotwords")
    return {word: float(weight) for word, weight in hotwords.items()}


def check_rate(rate: object, limits: Limits) -> int:
    """The sampling rate of live audio, in hertz."""
    is_number = isinstance(rate, (int, float)) and not isinstance(rate, bool)
    if not is_number or rate % 1 or not limits.lowest_rate <= rate <= limits.highest_rate:
        raise Refusal(
            f"sample rate: found {rate!r:.40}, expected a whole number of hertz, {limits.lowest_rate} to "
            f"{limits.highest_rate}.",
            "wrong_rate",
            param="rate",
        )
    return int(rate)
