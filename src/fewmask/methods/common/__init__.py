"""Code that several methods share. The files beside this folder are the methods, one each."""
