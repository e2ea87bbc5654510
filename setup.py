"""Packages of the wheel: robustok/ as it stands, and kernels/ as robustok.kernels (see robustok/kernels.py)."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["robustok", "robustok.*"]), "robustok.kernels"],
    package_dir={"robustok.kernels": "kernels"},
)
