"""What the compiler's text says: bytes of arguments as they lie in a TPU's memory, and the collectives of a program."""
from launch import tpu_compile

HLO = """HloModule jit_step, is_scheduled=true, input_output_alias={ {1}: (2, {}, may-alias) }, \
entry_computation_layout={(f32[4,4]{1,0:T(4,128)}, bf16[16,24,24,3]{0,3,2,1:T(8,128)(2,1)}, /*index=2*/f32[]{:T(128)}, \
s32[16]{0:T(128)S(1)})->(f32[]{:T(128)}, f32[4,4]{1,0:T(4,128)})}, replica_count=4

%region (a: f32[], b: f32[]) -> f32[] {
}
ENTRY %main {
  %all-reduce.40 = f32[1000]{0:T(1024)S(1)} all-reduce(%concat.0), replica_groups={{0,1,2,3}}, to_apply=%region
  %fusion.1 = (f32[]{:T(128)}, f32[10]{0:T(128)}) fusion(%all-reduce.40), kind=kLoop, calls=%fused
  %all-reduce.41 = (f32[64]{0:T(128)}, bf16[2,64]{1,0:T(2,128)(2,1)}) all-reduce(%a, %b), to_apply=%region
  %ar-start = f32[8]{0:T(128)} all-reduce-start(%c), to_apply=%region
  %ar-done = f32[8]{0:T(128)} all-reduce-done(%ar-start)
}
"""


def test_an_array_fills_whole_tiles():
    assert tpu_compile.padded_bytes("f32", "4,4", "1,0", "4,128") == 4 * 128 * 4
    assert tpu_compile.padded_bytes("f32", "3,3,3,64", "3,2,1,0", "4,128") == 3 * 3 * 4 * 128 * 4
    assert tpu_compile.padded_bytes("f32", "", "", "128") == 128 * 4
    assert tpu_compile.padded_bytes("bf16", "16,128", "1,0", "8,128") == 16 * 128 * 2
    assert tpu_compile.padded_bytes("f32", "10,20", None, None) == 800


def test_arguments_in_order():
    # The second one is laid out with its first dimension most minor: 16 becomes 128, and 3 channels 8.
    assert tpu_compile.parameters(HLO) == [4 * 128 * 4, 24 * 24 * 8 * 128 * 2, 128 * 4, 128 * 4]


def test_collectives_are_counted_once_with_the_bytes_of_their_results():
    assert tpu_compile.collectives(HLO) == [["all-reduce", 4000], ["all-reduce", 64 * 4 + 128 * 2], ["all-reduce", 32]]
    assert tpu_compile.collectives("") == []
