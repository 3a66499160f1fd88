"""Attribution by unlearning: `ascent` the method, `denoiser` its image form, `text` its text form."""
