"""Mutation testing: do the fast tests of a module notice when its code is changed?"""
