"""What requests may say, and what an error looks like. A field that is not here is refused, never ignored; so is a
value of another type, such as "5" for 5. Fields of OpenAI's that heft does not have may be null, since many clients
send all that they know."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

TokenIds = Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)]
StopText = Annotated[str, Field(min_length=1, max_length=1000)]
_OFF = Literal[0]


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, use_attribute_docstrings=True, allow_inf_nan=False)


class StreamOptions(_Request):
    """How a stream ends."""

    include_usage: bool = False
    """Send the counts of tokens in a last chunk; the others have null there."""


class Sampling(_Request):
    """What text requests have in common."""

    model: str
    """A name of `/v1/models`."""
    temperature: float | None = Field(default=1.0, ge=0, le=100)
    """0 takes the likeliest token."""
    top_p: float | None = Field(default=1.0, gt=0, le=1)
    """Draw from the likeliest tokens up to this probability together."""
    n: int | None = Field(default=1, ge=1, le=128)
    """Texts for each prompt."""
    stop: StopText | Annotated[list[StopText], Field(max_length=16)] | None = None
    """Strings before which a text ends."""
    seed: int | None = Field(default=None, ge=-(2**63), lt=2**63)
    """Of the draws; the n-th text has this seed plus n."""
    stream: bool | None = False
    """Send text as it comes, as server-sent events."""
    stream_options: StreamOptions | None = None
    """For streams."""
    ignore_eos: bool = False
    """Let no EOS token end a text (as vLLM)."""
    return_token_ids: bool = False
    """Send the ids of prompt and text too (as vLLM)."""
    user: str | None = None
    """Of the client's own use."""
    presence_penalty: _OFF | None = None
    """Only 0."""
    frequency_penalty: _OFF | None = None
    """Only 0."""
    logit_bias: None = None

    @field_validator("temperature", "top_p", "n", "stream", "echo", "logprobs", check_fields=False)
    @classmethod
    def _null_is_the_default(cls, value: Any, info: ValidationInfo) -> Any:
        return cls.model_fields[info.field_name].default if value is None else value


class CompletionRequest(Sampling):
    """`/v1/completions`."""

    prompt: str | Annotated[list[str], Field(min_length=1)] | TokenIds | Annotated[list[TokenIds], Field(min_length=1)]
    """A text, several, token ids, or several lists of these."""
    max_tokens: int | None = Field(default=16, ge=0)
    """Generated at most; 0 with `echo` only."""
    logprobs: int | None = Field(default=None, ge=0, le=20)
    """Log-probability of each token, and of so many of the likeliest."""
    echo: bool | None = False
    """Give the prompt back before the text, with its log-probabilities where they are asked for."""
    prompt_length: int | None = Field(default=None, ge=1)
    """With `echo`: how many tokens are the prompt, from which positions of adapters count; the rest is a continuation
    that is scored. Default: all. Of heft."""
    best_of: None = None
    suffix: None = None


class TextPart(_Request):
    """A part of a message."""

    type: Literal["text"]
    text: str


class Message(_Request):
    """A turn of a chat."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | Annotated[list[TextPart], Field(min_length=1)]
    name: None = None
    refusal: None = None
    """As in this server's own answers, which a client sends back as they came."""
    annotations: None = None
    audio: None = None
    function_call: None = None
    tool_calls: None = None

    @property
    def text(self) -> str:
        """The whole content."""
        return self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)


class ChatRequest(Sampling):
    """`/v1/chat/completions`."""

    messages: Annotated[list[Message], Field(min_length=1)]
    """The chat so far."""
    max_tokens: int | None = Field(default=None, ge=1)
    """Generated at most (older name)."""
    max_completion_tokens: int | None = Field(default=None, ge=1)
    """Generated at most; default: 512."""
    logprobs: bool | None = False
    """Log-probability of each token."""
    top_logprobs: int | None = Field(default=None, ge=0, le=20)
    """And of so many of the likeliest."""
    audio: None = None
    function_call: None = None
    functions: None = None
    metadata: None = None
    modalities: None = None
    parallel_tool_calls: None = None
    prediction: None = None
    reasoning_effort: None = None
    response_format: None = None
    service_tier: None = None
    store: None = None
    tool_choice: None = None
    tools: None = None


class EncodedQuestion(_Request):
    """A question that the client has encoded itself."""

    prompt_ids: TokenIds
    """Of the prompt."""
    choice_ids: Annotated[list[TokenIds], Field(min_length=1)]
    """Of each choice, behind the prompt."""


class ClassifyRequest(_Request):
    """`/v1/classify`."""

    model: str
    """A name of `/v1/models`."""
    input: str | Annotated[list[EncodedQuestion | str | dict[str, Any]], Field(min_length=1)]
    """Texts, where all rows of the adapter's task have the same choices; rows with the task's fields; or token ids."""
    user: str | None = None
    """Of the client's own use."""


class LoadRequest(_Request):
    """`/v1/load_lora_adapter`, as vLLM has it."""

    lora_name: str
    """To ask for it by."""
    lora_path: str
    """A run or an adapter directory, beneath the folder that the server may load from."""


class UnloadRequest(_Request):
    """`/v1/unload_lora_adapter`, as vLLM has it."""

    lora_name: str
    """As in `/v1/models`."""


class Error(BaseModel):
    """What is wrong, as OpenAI's API says it."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    message: str
    """For people."""
    type: str
    """The kind, such as `invalid_request_error`."""
    param: str | None
    """The field of the request."""
    code: str | None
    """For programs."""


class ErrorDocument(BaseModel):
    """Body of every answer with a status of 400 or above."""

    error: Error
