"""How large each preset is, for help texts: no torch in here. The tests hold the numbers to the networks."""

# preset: (parameters for a 1x28x28 picture, parameters for a vector of 2)
PARAMETER_TABLE = {
    "tiny": (237_313, 41_922),
    "small": (643_521, 223_618),
    "base": (3_726_337, 1_136_386),
}
