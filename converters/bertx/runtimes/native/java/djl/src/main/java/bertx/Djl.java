package bertx;

import ai.djl.Device;
import ai.djl.MalformedModelException;
import ai.djl.Model;
import ai.djl.engine.Engine;
import ai.djl.inference.Predictor;
import ai.djl.ndarray.NDArray;
import ai.djl.ndarray.NDList;
import ai.djl.ndarray.NDManager;
import ai.djl.ndarray.types.DataType;
import ai.djl.ndarray.types.Shape;
import ai.djl.translate.NoopTranslator;
import ai.djl.translate.TranslateException;
import java.io.IOException;
import java.io.InputStream;
import java.nio.file.Files;
import java.util.Map;

/** A TorchScript file in DJL's PyTorch engine: inputs by position, one Tensor out. */
public final class Djl implements Runner {
  private static final Map<DataType, String> TYPES =
      Map.of(DataType.FLOAT64, "float64", DataType.FLOAT32, "float32", DataType.FLOAT16, "float16", DataType.BFLOAT16,
          "bfloat16", DataType.INT64, "int64", DataType.INT32, "int32", DataType.INT8, "int8", DataType.UINT8, "uint8",
          DataType.BOOLEAN, "bool");

  private Task task;
  private Predictor<NDList, NDList> predictor;

  @Override
  public void open(Task task) throws IOException, MalformedModelException {
    this.task = task;
    System.setProperty("ai.djl.pytorch.num_threads", "" + task.threads()); // read when the engine starts
    Model model = Model.newInstance("artifact", Device.cpu(), "PyTorch");
    try (InputStream stream = Files.newInputStream(task.artifact())) {
      model.load(stream);
    }
    predictor = model.newPredictor(new NoopTranslator());
  }

  @Override
  public Map<String, Tensor> run(Map<String, Tensor> inputs) throws TranslateException {
    try (NDManager manager = NDManager.newBaseManager(Device.cpu())) {
      NDList given = new NDList();
      for (Task.Spec spec : task.inputs()) {
        Tensor input = inputs.get(spec.name());
        given.add(manager.create(input.buffer(), new Shape(input.shape()), type(input.dtype())));
      }
      NDList results = predictor.predict(given);
      results.attach(manager);
      if (results.size() != 1) {
        throw new IllegalStateException("forward gave " + results.size() + " tensors, not one");
      }
      NDArray result = results.head();
      String dtype = TYPES.get(result.getDataType());
      return Map.of(task.outputs().get(0).name(), Tensor.of(dtype, result.getShape().getShape(), result.toByteBuffer()));
    }
  }

  @Override
  public Map<String, String> facts() {
    Engine engine = Engine.getEngine("PyTorch");
    return Map.of("version", engine.getVersion(), "provider", "DJL", "dtype", task.dtype());
  }

  private static DataType type(String dtype) {
    return TYPES.entrySet().stream().filter(each -> each.getValue().equals(dtype)).findFirst().orElseThrow().getKey();
  }

  public static void main(String[] arguments) {
    Runner.main("djl", new Djl(), arguments);
  }
}
