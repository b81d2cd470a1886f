"""Tests of pangu.foundation."""
