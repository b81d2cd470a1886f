"""The presets of `clean`: what each kind of text needs otherwise than the web.

A recipe's or a source's `preset` chooses the one of this name here and among the rules of `filter`, so that both
stages judge a text by what it is."""

from typing import Any, Literal

PresetName = Literal["web", "technical", "poetry", "classical", "dialogue", "pangu-alpha"]

_NO_TEMPLATE: dict[str, Any] = {
    "remove_navigation": False,
    "remove_contact_lines": False,
    "remove_publisher_lines": False,
    "remove_repeated_paragraphs": False,
    "advertisement_words": (),
    "drop_title_only": False,
}
PRESETS: dict[str, dict[str, Any]] = {
    # the defaults: pages of the open web, with whatever their templates add
    "web": {},
    # documentation, articles with listings, README files: lists repeat their items, words of trade are no advertisement
    "technical": {
        "minimum_characters": 100,
        "minimum_han_share": 0.4,
        "remove_navigation": False,
        "remove_contact_lines": False,
        "remove_repeated_paragraphs": False,
        "advertisement_words": (),
    },
    # a couplet has ten characters, and a refrain comes back
    "poetry": {**_NO_TEMPLATE, "minimum_characters": 8, "privacy": "keep"},
    # short entries, characters that no other text has
    "classical": {**_NO_TEMPLATE, "minimum_characters": 15, "privacy": "keep"},
    # questions and answers, chats, plays: short, and the same answer may be given twice
    "dialogue": {**_NO_TEMPLATE, "minimum_characters": 15, "minimum_han_share": 0.5},
    # section 3.1 of the paper by its letter: shares of all characters, no symbols, no regard for structure
    "pangu-alpha": {
        "han_share_of": "characters",
        "keep_structure": False,
        "keep_text_symbols": False,
        "remove_markup": False,
        "remove_publisher_lines": False,
        "simplify": "t2s",
    },
}
