"""The flags and classes of kernels/survey.py, apart from it: who only names them does not wait for the compiler."""

# what a text may need; also the class of the characters that show it
SYMBOL, UNIFY, TRADITIONAL, BREAK = 1, 2, 4, 8
# LATIN_FIRST before LATIN, or WIDE_FIRST behind ASCII, may begin mojibake
LATIN, WIDE_FIRST, LATIN_FIRST = 16, 32, 32768
SPACE, INDENT, TRAILING = 64, 128, 256
DIGIT, SEPARATOR, SENTENCE, AT = 512, 1024, 2048, 4096
# one of PAIR_FIRST before one of PAIR_SECOND may begin a word that is looked for
PAIR_FIRST, PAIR_SECOND = 8192, 16384
UNTIDY, REPEATED, NAVIGATION, NUMBERS, WORDS = 1 << 16, 1 << 17, 1 << 18, 1 << 19, 1 << 20
EVERYTHING = (1 << 21) - 1
# what characters or white space are to be changed for, but for mojibake
CHARACTERS = SYMBOL | UNIFY | TRADITIONAL | BREAK | UNTIDY
