package bertx;

import com.google.gson.Gson;
import com.google.gson.reflect.TypeToken;
import java.io.IOException;
import java.nio.file.Path;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.TreeMap;

/** A model that runs case by case, as a program that keeps the runner protocol (docs/runners.md). */
public interface Runner {
  /** Loads the model onto the CPU. */
  void open(Task task) throws Exception;

  /** Outputs by name. */
  Map<String, Tensor> run(Map<String, Tensor> inputs) throws Exception;

  /** The version, the provider and the dtype that really computed. */
  Map<String, String> facts();

  /** Runs a runner from the command line; a failure is one line on standard error and an exit code. */
  static void main(String name, Runner runner, String[] arguments) {
    Map<String, String> chosen = new HashMap<>();
    for (int i = 0; i + 1 < arguments.length; i += 2) {
      chosen.put(arguments[i], arguments[i + 1]);
    }
    try {
      for (String option : new String[] {"--artifact", "--inputs", "--outputs", "--device"}) {
        if (!chosen.containsKey(option)) {
          throw new IllegalArgumentException(option + " is missing");
        }
      }
      if (!chosen.get("--device").equals("cpu")) {
        end(5, "E_DEVICE: " + name + " knows the CPU only; use --device cpu");
      }
      Safetensors cases = Safetensors.read(Path.of(chosen.get("--inputs")));
      Task task = Task.of(Path.of(chosen.get("--artifact")), cases.metadata());
      runner.open(task);
      Map<String, List<String>> texts = Map.of();
      if (chosen.containsKey("--tokenizer")) {
        texts = new Gson().fromJson(cases.metadata().get("texts"), new TypeToken<Map<String, List<String>>>() {});
        encode(cases, texts, Path.of(chosen.get("--tokenizer")));
      }
      Safetensors made = answer(runner, task, cases, texts.keySet());
      made.metadata().putAll(runner.facts());
      made.metadata().putAll(Map.of("runtime", name, "device", "cpu", "threads", "" + task.threads()));
      made.write(Path.of(chosen.get("--outputs")));
    } catch (Exception | LinkageError error) {
      end(1, name + ": " + (error.getMessage() == null ? error.toString() : error.getMessage()));
    }
    System.exit(0);
  }

  /** Puts the tensors that a tokenizer makes of the texts in the place of those that the file has for them. */
  private static void encode(Safetensors cases, Map<String, List<String>> texts, Path tokenizer) throws IOException {
    try (Texts encoder = new Texts(tokenizer, Integer.parseInt(cases.metadata().get("longest")))) {
      for (Map.Entry<String, List<String>> each : texts.entrySet()) {
        Map<String, Tensor> made = encoder.encode(each.getValue());
        cases.tensors().replaceAll((key, stored) -> {
          String[] parts = key.split("/", 2);
          return parts[0].equals(each.getKey()) ? made.get(parts[1]) : stored;
        });
      }
    }
  }

  private static Safetensors answer(Runner runner, Task task, Safetensors cases, Set<String> texts)
      throws Exception {
    Map<String, Map<String, Tensor>> byCase = new TreeMap<>();
    for (Map.Entry<String, Tensor> each : cases.tensors().entrySet()) {
      int slash = each.getKey().indexOf('/');
      byCase.computeIfAbsent(each.getKey().substring(0, slash), name -> new TreeMap<>())
          .put(each.getKey().substring(slash + 1), each.getValue());
    }
    Map<String, Tensor> made = new TreeMap<>();
    Map<String, Double> seconds = new TreeMap<>();
    for (String name : byCase.keySet()) {
      Map<String, Tensor> inputs = byCase.get(name);
      Map<String, Long> axes = new HashMap<>();
      for (Task.Spec spec : task.inputs()) {
        if (!inputs.containsKey(spec.name())) {
          throw new IllegalArgumentException("case " + name + " lacks the input " + spec.name());
        }
        spec.check(inputs.get(spec.name()), axes);
      }
      if (texts.contains(name)) {
        inputs.forEach((input, tensor) -> made.put(name + "/" + input, tensor));
      }
      long started = System.nanoTime();
      Map<String, Tensor> outputs = runner.run(inputs);
      seconds.put(name, (System.nanoTime() - started) / 1e9);
      for (Map.Entry<String, Tensor> each : outputs.entrySet()) {
        Task.Spec spec = task.output(each.getKey());
        if (spec != null) {
          spec.check(each.getValue(), axes);
        }
        made.put(name + "/" + each.getKey(), each.getValue());
      }
    }
    return new Safetensors(made, new TreeMap<>(Map.of("seconds", new Gson().toJson(seconds))));
  }

  private static void end(int code, String message) {
    String line = message.replaceAll("\\s+", " ");
    System.err.println(line.substring(0, Math.min(500, line.length())));
    System.exit(code);
  }
}
