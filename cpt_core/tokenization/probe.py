"""A text whose ids are part of what identifies a tokenizer: libraries that encode it differently have different keys.

In: nothing.
Out: ``PROBE``.
Promise: what tokenizers are known to disagree about stands in it: case and contractions, digits, runs of white space,
code, scripts with and without spaces, marks in and out of normal form, emoji sequences, special tokens as text, and
scalar values that few texts hold.
Never: changes without need: with it change the keys of all token shards.
"""

_PROSE = (
    "The quick brown fox jumps over the lazy dog, doesn't it? I'll say: they've SEEN what HE'D DONE; we're sure i"
    "t's O'Brien's, y'all. “Quoted” ‘text’ — with dashes–and… dots... e.g. U.S.A., state-of-the-art, coöperate, n"
    "aïve cafés, ﬁne straße, İstanbul ışık, mailto:a.b+c@example.org, https://example.org/path_(x)?q=1&r=%20#top."
    " iPhone15Pro camelCase snake_case SCREAMING_CASE antidisestablishmentarianism Donaudampfschifffahrtsgesellsc"
    "haft zzzzzzzzzzzzzzzzzzzzzzzz\nZażółć gęślą jaźń; příliš žluťoučký kůň; törkylempijävongahdus; şımarık çocuk"
    "; ninakupenda sana; ¿qué tal? l'été d'Åse\n"
)
_NUMBERS = (
    "0 7 42 365 1234 98765 100000 1234567890 3.14159 1,000,000.00 1e-9 0xDEADBEEF 007 12:34:56 2024-02-29 +49 30 "
    "1234 50% $1.99 €5 x2y10 ½ ² Ⅷ ① \u0661\u0662\u0663 १२३ １２ 𝟙\n1 + 1 = 2, 2×3≤7, ∀x∈ℝ: ∫f′ ≠ π²\n550e8400-e2"
    "9b-41d4-a716-446655440000 127.0.0.1:8080 v1.2.3-rc.4 \u0663\u066b\u0661\u0664 十二 1st 2nd 3rd 90°\n"
)
_CODE = (
    'def f(xs: list[int], *, n=0) -> str:\n    if not xs:\n        return f"{n!r}\\n"  # none\n\treturn xs[-1] '
    "** 2\n\n\nfor(int i=0;i<n;++i){a[i]^=(b>>3)&0xff;}\r\n#include <stdio.h>\r\n<div class='a'>&amp;</div>\n$x ="
    " \\frac{1}{2}$\nSELECT * FROM t WHERE a!='b' -- c\n{\"k\": [null, true, -1.5e3]}\n||||||==========//////----"
    "------\n(defun sq (x) (* x x)) ; lisp\n\\begin{eq}\\alpha_{i}^{2}\\end{eq} ## h\n- [ ] *b* `c` ~~d~~ | e |\n"
    "@@ -1,2 +1 @@\nQmFzZTY0IQ== &nbsp; #!/bin/sh ${x:-y} 2>&1 <<'EOF'\n"
)
_SPACES = (
    "a b  c   d    e       f                g\th\t\ti\t \tj \n k\n\n\nl\r\nm\r\rn \r\n \no\xa0p\u2003q\u2028r"
    "\u2029s\u3000t\u200bu\ufeffv\x0bw\x0cx\x85y   \n   z     \n"
)
_SCRIPTS = (
    "Съешь ещё этих булок. Ξεσκεπάζω τὴν ψυχής. \u05e9\u05b8\u05c1\u05dc\u05d5\u05b9\u05dd \u05e2\u05d5\u05dc"
    "\u05dd. \u0645\u064e\u0631\u0652\u062d\u064e\u0628\u064b\u0627 \u0628\u0627\u0644\u0639\u0627\u0644\u0645، "
    "\ufefb. नमस\u094dत\u0947 द\u0941न\u093fय\u093e। ব\u09be\u0982ল\u09be தம\u0bbfழ\u0bcd สว\u0e31สด\u0e35ชาวโลก "
    "བ\u0f7cད་ཡ\u0f72ག გამარჯობა Հայերեն ሰላም ᏣᎳᎩ 日本語のテキスト、ｶﾀｶﾅ。中文汉字，繁體！한국어 \u1112\u1161"
    "\u11ab\u1100\u1173\u11af Tiếng Việt Đồng 𠀀𪛖 𐌰𐌱 𒀀\n"
)
_MARKS = (
    "e\u0301 é A\u030a Å \u212b o\u0308\u0304 ȫ q\u0307\u0323 q\u0323\u0307 Z\u0351\u036b\u0343\u032a\u0302\u0310"
    "\u0334a\u0308\u0301\u0327 \u0344 ẛ\u0323 가\u11a8 n\u0303'\u0303 \u0301\u0301\u0301\u0301 \u0958 \u2126 "
    "\ufb1d \U0001d15e\n"
)
_EMOJI = (
    "😀😃 👍\U0001f3fd 🧑\u200d🔬 👨\u200d👩\u200d👧\u200d👦 🇩🇪🇯🇵 ❤\ufe0f\u200d🔥 1\ufe0f\u20e3 ☃\ufe0e 🏴"
    "\U000e0067\U000e0062\U000e0073\U000e0063\U000e0074\U000e007f :-) \xaf\\_(ツ)_/\xaf \U0001fae8\n"
)
_SPECIALS = (
    "<|endoftext|> <|begin_of_text|><|end_of_text|> <|im_start|>user\n<s> </s> <unk> <pad>[INST] [/INST] <<SYS>> "
    "<think></think><tool_call> [CLS][MASK] <0x0A> ▁a ▁▁ Ġb Ċ ##c </w> @@ <|\n"
)
_RARE = (
    "\x00\x01\x1b[0m\x7f \x80\xad \u034f \u061c \u180e \u200e\u202e\u2066 \u2060 \ufdd0 \ufff9￼\ufffd\uffff "
    "\ue000 ǅ ʰ ー \U000e0001 \U000f0000 \U0010fffd\U0010ffff"
)
PROBE = _PROSE + _NUMBERS + _CODE + _SPACES + _SCRIPTS + _MARKS + _EMOJI + _SPECIALS + _RARE
