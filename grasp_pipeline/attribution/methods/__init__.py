"""Every baseline that the surrogate is compared with, one file each; `registry` finds the files of this folder."""
