package bertx;

import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.util.Arrays;
import java.util.Map;

/**
 * A tensor: its dtype as PyTorch calls it ("float32"), its elements in row-major order, little-endian.
 */
public record Tensor(String dtype, long[] shape, byte[] bytes) {
  /** Names in a safetensors file by ours. */
  static final Map<String, String> CODES =
      Map.of("float64", "F64", "float32", "F32", "float16", "F16", "bfloat16", "BF16", "int64", "I64",
          "int32", "I32", "int8", "I8", "uint8", "U8", "bool", "BOOL");

  private static final Map<String, Integer> SIZES =
      Map.of("float64", 8, "float32", 4, "float16", 2, "bfloat16", 2, "int64", 8, "int32", 4, "int8", 1, "uint8", 1,
          "bool", 1);

  public Tensor {
    if (!CODES.containsKey(dtype)) {
      throw new IllegalArgumentException("dtype " + dtype + " is not supported");
    }
    long size = Arrays.stream(shape).reduce(SIZES.get(dtype), (product, each) -> product * each);
    if (size != bytes.length) {
      throw new IllegalArgumentException(bytes.length + " bytes do not fit the shape " + Arrays.toString(shape));
    }
  }

  /** A copy of the elements outside the heap, in this machine's order, where native libraries can read them. */
  public ByteBuffer buffer() {
    return ByteBuffer.allocateDirect(bytes.length).order(ByteOrder.nativeOrder()).put(bytes).rewind();
  }

  /** A tensor of the elements of a buffer, all that remain. */
  public static Tensor of(String dtype, long[] shape, ByteBuffer buffer) {
    byte[] bytes = new byte[buffer.remaining()];
    buffer.get(bytes);
    return new Tensor(dtype, shape, bytes);
  }
}
