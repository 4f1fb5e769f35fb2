"""Exercises as data: stubs are generated from solutions/, and a student's file is checked."""
