package bertx;

import ai.onnxruntime.NodeInfo;
import ai.onnxruntime.OnnxJavaType;
import ai.onnxruntime.OnnxTensor;
import ai.onnxruntime.OnnxTensorLike;
import ai.onnxruntime.OrtEnvironment;
import ai.onnxruntime.OrtException;
import ai.onnxruntime.OrtLoggingLevel;
import ai.onnxruntime.OrtSession;
import ai.onnxruntime.TensorInfo;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;

/** An ONNX file in ONNX Runtime: inputs by name, all outputs. */
public final class OnnxRuntime implements Runner {
  private static final Map<OnnxJavaType, String> TYPES =
      Map.of(OnnxJavaType.DOUBLE, "float64", OnnxJavaType.FLOAT, "float32", OnnxJavaType.FLOAT16, "float16",
          OnnxJavaType.BFLOAT16, "bfloat16", OnnxJavaType.INT64, "int64", OnnxJavaType.INT32, "int32",
          OnnxJavaType.INT8, "int8", OnnxJavaType.UINT8, "uint8", OnnxJavaType.BOOL, "bool");

  private final OrtEnvironment environment = OrtEnvironment.getEnvironment(OrtLoggingLevel.ORT_LOGGING_LEVEL_ERROR);
  private OrtSession session;
  private Map<String, String> given; // what the cases call the file's inputs
  private String dtype;

  @Override
  public void open(Task task) throws OrtException {
    OrtSession.SessionOptions options = new OrtSession.SessionOptions();
    options.setIntraOpNumThreads(task.threads());
    session = environment.createSession(task.artifact().toString(), options);
    for (NodeInfo output : session.getOutputInfo().values()) {
      Task.Spec spec = task.output(output.getName());
      if (spec != null && !type(output).equals(spec.dtype())) {
        throw new IllegalArgumentException(spec.name() + " is " + type(output) + " where " + spec.dtype() + " is claimed");
      }
    }
    given = bound(new ArrayList<>(session.getInputNames()), task.inputs().stream().map(Task.Spec::name).toList());
    dtype = task.dtype();
  }

  @Override
  public Map<String, Tensor> run(Map<String, Tensor> inputs) throws OrtException {
    Map<String, OnnxTensorLike> fed = new TreeMap<>();
    try {
      for (NodeInfo input : session.getInputInfo().values()) {
        fed.put(input.getName(), tensor(input, inputs.get(given.get(input.getName()))));
      }
      Map<String, Tensor> outputs = new TreeMap<>();
      try (OrtSession.Result result = session.run(fed)) {
        for (var each : result) {
          OnnxTensor tensor = (OnnxTensor) each.getValue();
          TensorInfo info = tensor.getInfo();
          // getByteBuffer() copies the elements and leaves the order of bytes at Java's default.
          ByteBuffer elements = tensor.getByteBuffer().order(ByteOrder.nativeOrder());
          outputs.put(each.getKey(), Tensor.of(TYPES.get(info.type), info.getShape(), elements));
        }
      }
      return outputs;
    } finally {
      fed.values().forEach(OnnxTensorLike::close);
    }
  }

  @Override
  public Map<String, String> facts() {
    return Map.of("version", environment.getVersion(), "provider", "CPUExecutionProvider", "dtype", dtype);
  }

  private OnnxTensor tensor(NodeInfo input, Tensor given) throws OrtException {
    String name = input.getName();
    if (!given.dtype().equals(type(input))) {
      throw new IllegalArgumentException("input " + name + " is " + given.dtype() + ", the file wants " + type(input));
    }
    OnnxJavaType type = ((TensorInfo) input.getInfo()).type;
    return OnnxTensor.createTensor(environment, given.buffer(), given.shape(), type);
  }

  /** By name; a file with names of its own takes the inputs in the order of the cases. */
  private static Map<String, String> bound(List<String> theirs, List<String> ours) {
    boolean known = ours.containsAll(theirs);
    if (!known && theirs.size() != ours.size()) {
      throw new IllegalArgumentException("the file takes " + theirs + ", the cases have " + ours);
    }
    Map<String, String> found = new TreeMap<>();
    for (int i = 0; i < theirs.size(); i++) {
      found.put(theirs.get(i), known ? theirs.get(i) : ours.get(i));
    }
    return found;
  }

  private static String type(NodeInfo node) {
    return node.getInfo() instanceof TensorInfo info ? TYPES.getOrDefault(info.type, info.type.toString()) : "no tensor";
  }

  public static void main(String[] arguments) {
    Runner.main("onnxruntime-java", new OnnxRuntime(), arguments);
  }
}
