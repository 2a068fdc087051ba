package bertx;

import com.google.gson.Gson;
import com.google.gson.JsonElement;
import com.google.gson.JsonPrimitive;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.List;
import java.util.Map;

/** What is asked: the model file, the dtype that it claims, the threads to compute with, its inputs in order, its outputs. */
public record Task(Path artifact, String dtype, int threads, List<Spec> inputs, List<Spec> outputs) {
  /** One input or output; a size of its shape is a number or the name of an axis. */
  public record Spec(String name, String dtype, List<JsonElement> shape) {
    /** Compares a tensor with this; a named axis has one size within a case, which {@code axes} remembers. */
    void check(Tensor tensor, Map<String, Long> axes) {
      if (!tensor.dtype().equals(dtype)) {
        throw new IllegalArgumentException(name + " is " + tensor.dtype() + " where " + dtype + " is claimed");
      }
      boolean fits = shape.isEmpty() || shape.size() == tensor.shape().length; // empty: not stated
      for (int i = 0; fits && i < shape.size(); i++) {
        long size = tensor.shape()[i];
        JsonPrimitive stated = shape.get(i).getAsJsonPrimitive();
        long expected = stated.isNumber() ? stated.getAsLong() : axes.computeIfAbsent(stated.getAsString(), axis -> size);
        fits = size == expected;
      }
      if (!fits) {
        String found = Arrays.toString(tensor.shape());
        throw new IllegalArgumentException(name + " has shape " + found + ", which its signature " + shape + " does not allow");
      }
    }
  }

  private record Signature(List<Spec> inputs, List<Spec> outputs) {}

  static Task of(Path artifact, Map<String, String> metadata) {
    Signature signature = new Gson().fromJson(metadata.get("signature"), Signature.class);
    String threads = metadata.getOrDefault("threads", "" + Runtime.getRuntime().availableProcessors());
    return new Task(artifact, metadata.get("dtype"), Integer.parseInt(threads), signature.inputs(), signature.outputs());
  }

  /** The output of this name, null where the signature has none. */
  public Spec output(String name) {
    return outputs.stream().filter(spec -> spec.name().equals(name)).findFirst().orElse(null);
  }
}
