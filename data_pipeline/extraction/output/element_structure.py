"""What each element of a page is in: code, a table, a list, a heading. Linear in the page."""

from typing import NamedTuple

import numpy as np

from data_pipeline.extraction.parsed_page import CHARACTERS, DIGITS, TAG, TAGS, FlatPage
from data_pipeline.kernels.compiled import compiled

MAX_CELL_LINES = 12  # longer cells are the columns of an old layout
MAX_CELL_CHARACTERS = 500
MAX_PROGRAM_LINES = 60  # of a program in a cell

PREFORMATTED, TABLE, ROW, CELL, ENTRY, LIST, QUOTE, HEADING = range(1, 9)
_KIND_OF_TAG = np.zeros(len(TAGS) + 1, np.int8)
for _kind, _tags in {
    PREFORMATTED: "pre listing",
    TABLE: "table",
    ROW: "tr",
    CELL: "td th",
    ENTRY: "li",
    LIST: "ul ol",
    QUOTE: "blockquote",
    HEADING: "h1 h2 h3 h4 h5 h6",
}.items():
    for _tag in _tags.split():
        _KIND_OF_TAG[TAG[_tag]] = _kind


class Structure(NamedTuple):
    """For each element the nearest one of a kind that it is or is in, 0 where there is none; int32 [nodes]."""

    preformatted: np.ndarray  # the outermost
    table: np.ndarray
    row: np.ndarray
    cell: np.ndarray
    entry: np.ndarray
    heading: np.ndarray
    quote: np.ndarray
    depth: np.ndarray  # how many lists it is in
    outer_list: np.ndarray  # the outermost
    end: np.ndarray  # the node after the last one below it
    is_data: np.ndarray  # bool: of a table, that it has data in rows and columns and is no layout
    is_whole: np.ndarray  # bool: the same, or that programs of several lines stand in its cells


@compiled
def _places(parent, tag, kinds):
    nodes = parent.size
    place = np.zeros((9, nodes), np.int32)
    end = np.arange(1, nodes + 1).astype(np.int32)
    for node in range(1, nodes):
        up, kind = parent[node], kinds[tag[node]] if tag[node] >= 0 else 0
        for k in range(9):
            place[k, node] = place[k, up]
        if kind == PREFORMATTED:
            if place[0, up] == 0:
                place[0, node] = node
        elif kind == TABLE:
            place[1, node], place[2, node], place[3, node] = node, 0, 0
        elif kind == ROW:
            place[2, node], place[3, node] = node, 0
        elif kind == CELL:
            place[3, node] = node
        elif kind == ENTRY:
            place[4, node] = node
        elif kind == HEADING:
            place[5, node] = node
        elif kind == QUOTE:
            place[6, node] = node
        elif kind == LIST:
            place[7, node] += 1
            if place[8, up] == 0:
                place[8, node] = node
    for node in range(nodes - 1, 0, -1):
        end[parent[node]] = max(end[parent[node]], end[node])
    return place, end


@compiled
def _data_tables(parent, tag, kinds, place, line_node, characters, digits, header, maximum):
    nodes = parent.size
    is_layout, has_programs = np.zeros(nodes, np.bool_), np.zeros(nodes, np.bool_)
    has_pre, has_header = np.zeros(nodes, np.bool_), np.zeros(nodes, np.bool_)
    cells_of_row = np.zeros(nodes, np.int32)
    rows, wide_rows, worded_cells = np.zeros(nodes, np.int32), np.zeros(nodes, np.int32), np.zeros(nodes, np.int32)
    lines_of_cell, size_of_cell = np.zeros(nodes, np.int32), np.zeros(nodes, np.int64)
    lines_of_pre, has_words = np.zeros(nodes, np.int32), np.zeros(nodes, np.bool_)
    for node in range(1, nodes):
        kind = kinds[tag[node]] if tag[node] >= 0 else 0
        table = place[1, node]
        if kind == TABLE and place[1, parent[node]]:
            is_layout[place[1, parent[node]]] = True
        elif kind == PREFORMATTED and table:
            has_pre[table] = True
            is_layout[table] |= place[3, node] == 0 or place[0, node] < table
        elif kind == CELL and place[2, node]:
            cells_of_row[place[2, node]] += 1
    for node in range(1, nodes):
        if cells_of_row[node]:
            rows[place[1, node]] += 1
            wide_rows[place[1, node]] += cells_of_row[node] >= 2
    for i in range(line_node.size):
        node = line_node[i]
        cell, pre = place[3, node], place[0, node]
        if cell and pre > cell:
            lines_of_pre[pre] += 1
            continue
        lines_of_cell[cell] += 1
        size_of_cell[cell] += characters[i]
        if not has_words[cell] and characters[i] > digits[i]:
            has_words[cell] = True
            worded_cells[place[1, cell]] += 1
            has_header[place[1, cell]] |= tag[cell] == header
    for node in range(1, nodes):
        if lines_of_cell[node] > maximum[0] or size_of_cell[node] > maximum[1] or lines_of_pre[node] > maximum[2]:
            is_layout[place[1, node]] = True
        has_programs[place[1, node]] |= lines_of_pre[node] > 1
    is_data, is_whole = np.zeros(nodes, np.bool_), np.zeros(nodes, np.bool_)
    for node in range(1, nodes):
        is_whole[node] = rows[node] >= 2 and 2 * wide_rows[node] >= rows[node] and not is_layout[node]
        # numbers beside the lines of a program are no words
        is_whole[node] &= not has_pre[node] or has_header[node] or 2 * worded_cells[node] >= rows[node]
        is_data[node] = is_whole[node] and not has_programs[node]
    return is_data, is_whole


def structure_of(page: FlatPage) -> Structure:
    """Return what each element of a page is in."""
    parent, tag = page.node_parent, page.node_tag
    place, end = _places(parent, tag, _KIND_OF_TAG)
    is_data, is_whole = _data_tables(
        parent, tag, _KIND_OF_TAG, place, page.line_node, page.line_counts[:, CHARACTERS],
        page.line_counts[:, DIGITS], TAG["th"], (MAX_CELL_LINES, MAX_CELL_CHARACTERS, MAX_PROGRAM_LINES),
    )  # fmt: skip
    preformatted, table, row, cell, entry, heading, quote, depth, outer_list = place
    return Structure(
        preformatted, table, row, cell, entry, heading, quote, depth, outer_list, end, is_data, is_whole
    )  # fmt: skip


def whole_parts(page: FlatPage, structure: Structure) -> np.ndarray:
    """Return for each line the code or table of data that it is a part of, which is kept whole or not at all; int32
    [lines], 0 for other lines."""
    node = page.line_node
    table = np.where(structure.is_whole[structure.table[node]], structure.table[node], 0)
    preformatted = structure.preformatted[node]
    return np.where((preformatted > 0) & ((table == 0) | (preformatted < table)), preformatted, table)
