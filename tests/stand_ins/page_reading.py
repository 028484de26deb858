"""The pages as a reader meets them: READMEs and docs, their headings, tables, code blocks and commands."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / 'README.md', ROOT / 'README_zh-CN.md', ROOT / 'CONTRIBUTING.md', *sorted((ROOT / 'docs').rglob('*.md'))]
FENCE = re.compile(r'^( *)```(\w*)\n(.*?)^\1```$', re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """A fenced block: its language ('' for none) and its lines without the fence's indentation."""

    language: str
    text: str


def blocks(text: str, language: str | None = None) -> list[Block]:
    """Fenced blocks of a page, in order; those of one language if it is given."""
    found = [Block(name, re.sub(f'^{indent}', '', body, flags=re.MULTILINE)) for indent, name, body in FENCE.findall(text)]
    return [block for block in found if language in (None, block.language)]


def without_blocks(text: str) -> str:
    """The page without its fenced blocks."""
    return FENCE.sub('', text)


def heading_levels(text: str) -> list[int]:
    """Level of every heading."""
    return [len(marks) for marks in re.findall(r'^(#+) ', without_blocks(text), re.MULTILINE)]


def table_shapes(text: str) -> list[tuple[int, int]]:
    """(rows with the header, columns) of every table."""
    tables = re.findall(r'(?:^ *\|.*\|\n)+', without_blocks(text) + '\n', re.MULTILINE)
    return [(table.count('\n') - 1, len(re.split(r'(?<!\\)\|', table.splitlines()[0].strip())) - 2) for table in tables]


def code(block: Block) -> list[str]:
    """Lines of a block without comments, which may be translated."""
    return [re.sub(r'(^|\s+)#.*', '', line).rstrip() for line in block.text.splitlines()]


@dataclass(frozen=True)
class Command:
    """A command line of a page: its words, and the comment behind it."""

    words: tuple[str, ...]
    comment: str


def commands(text: str) -> list[Command]:
    """Every command line of the page's shell blocks; settings of the environment in front, and scripts that compute words, are left out."""
    found = []
    for block in blocks(text, 'bash'):
        if '$(' in block.text:
            continue
        for line in block.text.replace('\\\n', ' ').splitlines():
            body, _, comment = line.partition(' #')
            words = shlex.split(re.sub(r'\[[^\]]*\]', '', body))  # without what is optional
            while words and re.fullmatch(r'[A-Z_]+=.*', words[0]):
                words.pop(0)
            if words and not words[0].startswith('#'):
                found.append(Command(tuple(words), comment.strip()))
    return found
