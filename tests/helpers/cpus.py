"""What some CPUs report, as far as it counts for a build of llama.cpp."""

X86_V3 = "sse4_2 avx f16c fma avx2 bmi2"  # since Haswell
AVX512 = f"{X86_V3} avx512f avx512cd avx512vl avx512dq avx512bw"  # since Skylake-X
ZEN_5 = f"{AVX512} avx512vbmi avx512_vnni avx512_bf16 avx_vnni"
SAPPHIRE_RAPIDS = f"{ZEN_5} amx_tile amx_int8 amx_bf16"
