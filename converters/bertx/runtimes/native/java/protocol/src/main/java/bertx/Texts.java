package bertx;

import ai.djl.huggingface.tokenizers.Encoding;
import ai.djl.huggingface.tokenizers.HuggingFaceTokenizer;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.Map;
import java.util.function.Function;

/** Texts to tensors by a tokenizer.json, in DJL's binding of the tokenizers library. */
final class Texts implements AutoCloseable {
  private final HuggingFaceTokenizer tokenizer;

  /** {@code longest}: the most tokens that a text may have, special tokens included. */
  Texts(Path path, int longest) throws IOException {
    if (Files.exists(path.resolveSibling("mecab_contract.json"))) {
      throw new IOException("it does not do what mecab_contract.json asks for: Japanese texts are for programs that do");
    }
    tokenizer =
        HuggingFaceTokenizer.builder()
            .optTokenizerPath(path)
            .optTruncation(true)
            .optMaxLength(longest)
            .optPadding(true)
            .build();
  }

  /** The inputs of a batch, padded on the right to its longest text. */
  Map<String, Tensor> encode(List<String> texts) {
    Encoding[] encodings = tokenizer.batchEncode(texts);
    return Map.of("input_ids", tensor(encodings, Encoding::getIds), "attention_mask",
        tensor(encodings, Encoding::getAttentionMask), "token_type_ids", tensor(encodings, Encoding::getTypeIds));
  }

  private static Tensor tensor(Encoding[] encodings, Function<Encoding, long[]> part) {
    int sequence = part.apply(encodings[0]).length;
    ByteBuffer bytes = ByteBuffer.allocate(8 * encodings.length * sequence).order(ByteOrder.LITTLE_ENDIAN);
    for (Encoding encoding : encodings) {
      bytes.asLongBuffer().put(part.apply(encoding));
      bytes.position(bytes.position() + 8 * sequence);
    }
    return new Tensor("int64", new long[] {encodings.length, sequence}, bytes.array());
  }

  @Override
  public void close() {
    tokenizer.close();
  }
}
