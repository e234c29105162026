"""Writes probes/data/{syllables_english,emoji,nfkd_ascii,stopwords_english}.txt from what the official IFBench scorer uses.

    pip install syllapy==0.8.0 emoji==2.16.0 llama-index-core==0.14.25      # Python 3.11, whose Unicode is 14.0
    python tests/peers/ifbench_data.py probes/data

Of syllapy's words only those are kept that its rule gets wrong. `llama-index-core` holds NLTK's own list of stop words.
"""

import importlib.metadata
import pathlib
import sys
import unicodedata

import emoji
import syllapy


def syllables():
    wrong = {}
    for word, n in syllapy.WORD_DICT.items():
        # What is no plain word is never looked up.
        if word.isalpha() and syllapy._syllables(word) != n:
            wrong.setdefault(n, []).append(word)
    return "".join(f"# {n}\n" + "".join(f"{word}\n" for word in sorted(wrong[n])) for n in sorted(wrong))


def emojis():
    ranges = []
    for code in sorted(ord(text) for text in emoji.EMOJI_DATA if len(text) == 1):
        if ranges and ranges[-1][1] == code - 1:
            ranges[-1][1] = code
        else:
            ranges.append([code, code])
    return "".join(f"{first:x}-{last:x}\n" if first < last else f"{first:x}\n" for first, last in ranges)


def decompositions():
    by_ascii = {}
    for code in range(128, sys.maxunicode + 1):
        ascii = unicodedata.normalize("NFKD", chr(code)).encode("ascii", "ignore").decode()
        if ascii:
            by_ascii.setdefault(ascii, []).append(chr(code))
    return "".join(f"{ascii}\t{''.join(by_ascii[ascii])}\n" for ascii in sorted(by_ascii))


def stop_words():
    package = importlib.metadata.distribution("llama-index-core")
    path = package.locate_file("llama_index/core/_static/nltk_cache/corpora/stopwords/english")
    words = pathlib.Path(path).read_text(encoding="utf-8").split()
    return "".join(f"{word}\n" for word in sorted(words))


def main():
    folder = pathlib.Path(sys.argv[1])
    tables = {
        "syllables_english": syllables(),
        "emoji": emojis(),
        "nfkd_ascii": decompositions(),
        "stopwords_english": stop_words(),
    }
    for name, text in tables.items():
        (folder / f"{name}.txt").write_text(text, encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main()
