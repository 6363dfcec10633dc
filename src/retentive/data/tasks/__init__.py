"""Synthetic tasks with known answers: does a model remember, and over how many segments?"""
