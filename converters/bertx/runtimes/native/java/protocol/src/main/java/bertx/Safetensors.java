package bertx;

import com.google.gson.Gson;
import com.google.gson.JsonElement;
import com.google.gson.JsonObject;
import com.google.gson.JsonParser;
import com.google.gson.reflect.TypeToken;
import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.Map;
import java.util.TreeMap;

/** A safetensors file: a header length, a JSON header, then the tensors' bytes. */
public record Safetensors(Map<String, Tensor> tensors, Map<String, String> metadata) {
  private static final Gson GSON = new Gson();

  private record Entry(String dtype, long[] shape, long[] data_offsets) {}

  public static Safetensors read(Path path) throws IOException {
    byte[] content = Files.readAllBytes(path);
    long length = content.length < 8 ? -1 : ByteBuffer.wrap(content).order(ByteOrder.LITTLE_ENDIAN).getLong();
    if (length < 0 || length > content.length - 8) {
      throw new IOException(path + " is no safetensors file");
    }
    int begin = 8 + (int) length;
    Map<String, Tensor> tensors = new TreeMap<>();
    Map<String, String> metadata = new TreeMap<>();
    String header = new String(content, 8, (int) length, StandardCharsets.UTF_8);
    for (Map.Entry<String, JsonElement> each : JsonParser.parseString(header).getAsJsonObject().entrySet()) {
      if (each.getKey().equals("__metadata__")) {
        metadata.putAll(GSON.fromJson(each.getValue(), new TypeToken<Map<String, String>>() {}));
        continue;
      }
      Entry entry = GSON.fromJson(each.getValue(), Entry.class);
      int from = begin + (int) entry.data_offsets[0];
      int to = begin + (int) entry.data_offsets[1];
      tensors.put(each.getKey(), new Tensor(named(entry.dtype), entry.shape, Arrays.copyOfRange(content, from, to)));
    }
    return new Safetensors(tensors, metadata);
  }

  public void write(Path path) throws IOException {
    JsonObject header = new JsonObject();
    header.add("__metadata__", GSON.toJsonTree(metadata));
    ByteArrayOutputStream data = new ByteArrayOutputStream();
    for (Map.Entry<String, Tensor> each : tensors.entrySet()) {
      Tensor tensor = each.getValue();
      long from = data.size();
      data.write(tensor.bytes());
      Entry entry = new Entry(Tensor.CODES.get(tensor.dtype()), tensor.shape(), new long[] {from, data.size()});
      header.add(each.getKey(), GSON.toJsonTree(entry));
    }
    byte[] text = header.toString().getBytes(StandardCharsets.UTF_8);
    byte[] padded = Arrays.copyOf(text, (text.length + 7) / 8 * 8);
    Arrays.fill(padded, text.length, padded.length, (byte) ' ');
    ByteBuffer whole = ByteBuffer.allocate(8 + padded.length + data.size()).order(ByteOrder.LITTLE_ENDIAN);
    Files.write(path, whole.putLong(padded.length).put(padded).put(data.toByteArray()).array());
  }

  private static String named(String code) {
    return Tensor.CODES.entrySet().stream()
        .filter(each -> each.getValue().equals(code))
        .map(Map.Entry::getKey)
        .findFirst()
        .orElse(code);
  }
}
