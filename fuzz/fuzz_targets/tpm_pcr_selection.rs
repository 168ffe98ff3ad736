#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::targets::tpm_pcr_selection(data));
