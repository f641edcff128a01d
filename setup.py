from setuptools import find_packages, setup

# The two packages lie in different folders, of which setup.cfg can search one.
setup(
    packages=find_packages(include=["kfisher*"]) + find_packages("scripts"),
    package_dir={"kfisher_scripts": "scripts/kfisher_scripts"},
)
