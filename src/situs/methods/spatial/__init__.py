"""methods/spatial"""
