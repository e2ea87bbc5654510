"""The stages: what each trains, on which data, with which losses."""
