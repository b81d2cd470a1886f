"""Readers of one format of file each: tables, JSON documents, books and office files, archives of members, ARC."""
