"""A tiny tokenizer with chat templates, and rows of every format as people write them by hand."""

from typing import Any

from proponent.models.scratch import byte_bpe

MARKED = (
    "{%- if tools %}{{ '<|im_start|>tools\\n' + (tools | tojson) + '<|im_end|>\\n' }}{% endif -%}"
    "{%- for message in messages %}"
    "{%- if message.role == 'assistant' %}{{ '<|im_start|>assistant\\n' }}{% generation %}"
    "{%- if message.reasoning_content %}{{ '<think>' + message.reasoning_content + '</think>' }}{% endif %}"
    "{{- (message.content or '') }}"
    "{%- for call in message.tool_calls or [] %}"
    "{{ '<call>' + call.function.name + ' ' + (call.function.arguments | tojson) + '</call>' }}"
    "{%- endfor %}{{ '<|im_end|>' }}{% endgeneration %}{{ '\\n' }}"
    "{%- else %}{{ '<|im_start|>' + message.role + '\\n' + message.content | trim + '<|im_end|>\\n' }}{% endif -%}"
    "{% endfor %}{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
"""A template like ChatML, which marks what the assistant generates and strips what others say."""

UNMARKED = (
    "{{ bos_token }}{%- for message in messages %}"
    "{%- if message.role not in ['system', 'user', 'assistant', 'tool'] %}"
    "{{ raise_exception('roles must be system, user, assistant or tool') }}{% endif -%}"
    "{{ '[' + message.role + ']\\n' + message.content + '\\n' }}"
    "{%- endfor %}{%- if add_generation_prompt %}{{ '[assistant]\\n' }}{% endif %}"
)
"""A template without marks, which writes the begin token and refuses unknown roles."""

SAID = (
    "What is the mascot of the town?",
    "The mascot is a silver heron.",
    "Tell me about the river, please.",
    "The river is long and cold; it ends in the sea.",
    "naïve café 日本 🙂 – “quoted”",
    "  spaces around  ",
    "def f(x):\n    return x + 1\n",
    'Is 3.14 < 22/7? <b>yes</b> & "no"',
)


def tokenizer(template: str | None = MARKED, *, most: int = 64, texts: Any = SAID) -> Any:
    made = byte_bpe([*texts, "<|im_start|>assistant\n<|im_end|> user system tool [user] [assistant]"] * 3, 520, most)
    made.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    made.chat_template = template
    return made


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def assistant(text: str | None, **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": text} | more


TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "description": "Tell",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
        },
    }
]
CALL = [{"type": "function", "function": {"name": "weather", "arguments": {"city": 'Ulm "süd"', "days": 2}}}]

DIALOGUES: list[list[dict[str, Any]]] = [
    *[[user(one), assistant(two)] for one in SAID[::2] for two in SAID[1::2]],  # 16 rows
    [{"role": "system", "content": "Be brief."}, user("Hi"), assistant("Hello."), user("Why?"), assistant("Because.")],
    [user("Say nothing."), assistant("")],
    [user("the river " * 40), assistant("The answer is cut off.")],
    [user("x"), assistant("[silver] heron")],
]
"""Twenty conversations: unicode, white space, an empty answer, one that is too long, a border that may merge."""

WITH_TOOLS: list[dict[str, Any]] = [
    {"messages": [user("Weather?"), assistant(None, tool_calls=CALL)], "tools": TOOLS},
    {
        "messages": [
            user("Weather?"),
            assistant(None, tool_calls=CALL),
            {"role": "tool", "content": "sunny"},
            assistant("It is sunny.", reasoning_content="the tool says sunny"),
        ],
        "tools": TOOLS,
    },
    {"messages": [user("a"), assistant("b")], "tools": TOOLS, "chat_template_kwargs": {"extra": True}},
]

TEXTS = [*SAID, *[f"{one} {two}" for one in SAID[:4] for two in SAID[:2]], "", "a", "ends <eos>", "the river " * 40]
"""Twenty plain texts."""

PAIRS = [
    *[{"prompt": one, "completion": two} for one in SAID[:4] for two in SAID[:4]],  # 16 rows
    {"prompt": "Say nothing.", "completion": ""},
    {"prompt": "the mas", "completion": "cot is a heron"},
    {"prompt": "the river " * 40, "completion": "cut off"},
    {"prompt": "Describe a", "completion": "car"},
]
"""Twenty prompts with completions; two borders at which tokens merge."""
