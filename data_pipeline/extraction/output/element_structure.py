"""What each element of a page is in: code, a table, a list, a heading. Linear in the page."""

from typing import NamedTuple

import numpy as np

from data_pipeline.extraction.parsed_page import CHARACTERS, TAG, TAGS, FlatPage
from data_pipeline.kernels.compiled import compiled

MAX_CELL_LINES = 12  # longer cells are the columns of an old layout
MAX_CELL_CHARACTERS = 500

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
    end: np.ndarray  # the node after the last one below it
    is_data: np.ndarray  # bool: of a table, that it has data in rows and columns and is no layout


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
    for node in range(nodes - 1, 0, -1):
        end[parent[node]] = max(end[parent[node]], end[node])
    return place, end


@compiled
def _data_tables(parent, tag, kinds, place, line_node, characters, maximum):
    nodes = parent.size
    is_layout = np.zeros(nodes, np.bool_)
    cells_of_row = np.zeros(nodes, np.int32)
    rows, wide_rows = np.zeros(nodes, np.int32), np.zeros(nodes, np.int32)
    lines_of_cell, size_of_cell = np.zeros(nodes, np.int32), np.zeros(nodes, np.int64)
    for node in range(1, nodes):
        kind = kinds[tag[node]] if tag[node] >= 0 else 0
        table = place[1, node]
        if kind == TABLE and place[1, parent[node]]:
            is_layout[place[1, parent[node]]] = True
        elif kind == PREFORMATTED and table:
            is_layout[table] = True
        elif kind == CELL and place[2, node]:
            cells_of_row[place[2, node]] += 1
    for node in range(1, nodes):
        if cells_of_row[node]:
            rows[place[1, node]] += 1
            wide_rows[place[1, node]] += cells_of_row[node] >= 2
    for i in range(line_node.size):
        cell = place[3, line_node[i]]
        lines_of_cell[cell] += 1
        size_of_cell[cell] += characters[i]
    for node in range(1, nodes):
        if lines_of_cell[node] > maximum[0] or size_of_cell[node] > maximum[1]:
            is_layout[place[1, node]] = True
    is_data = np.zeros(nodes, np.bool_)
    for node in range(1, nodes):
        is_data[node] = rows[node] >= 2 and 2 * wide_rows[node] >= rows[node] and not is_layout[node]
    is_data[0] = False
    return is_data


def structure_of(page: FlatPage) -> Structure:
    """Return what each element of a page is in."""
    parent, tag = page.node_parent, page.node_tag
    place, end = _places(parent, tag, _KIND_OF_TAG)
    is_data = _data_tables(
        parent, tag, _KIND_OF_TAG, place, page.line_node, page.line_counts[:, CHARACTERS],
        (MAX_CELL_LINES, MAX_CELL_CHARACTERS),
    )  # fmt: skip
    preformatted, table, row, cell, entry, heading, quote, depth = place[:8]
    return Structure(preformatted, table, row, cell, entry, heading, quote, depth, end, is_data)


def whole_parts(page: FlatPage, structure: Structure) -> np.ndarray:
    """Return for each line the code or table of data that it is a part of, which is kept whole or not at all; int32
    [lines], 0 for other lines."""
    node = page.line_node
    table = np.where(structure.is_data[structure.table[node]], structure.table[node], 0)
    return np.where(structure.preformatted[node] > 0, structure.preformatted[node], table)
