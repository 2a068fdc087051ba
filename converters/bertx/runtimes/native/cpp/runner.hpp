// The runner protocol (docs/runners.md): a model runs on every case of a file, its outputs go into another.
#pragma once
#include <chrono>
#include <iostream>
#include <map>
#include <stdexcept>
#include <string>
#include <vector>

#include "json.hpp"
#include "safetensors.hpp"

using Tensors = std::map<std::string, Tensor>;

// One input or output of the signature. A size of the shape is a number or, as text, the name of an axis.
struct Spec {
  std::string name, dtype;
  std::vector<Json> shape;
};

// What is asked: the model file, the device, the dtype that the file claims, how many threads to compute with (0: as
// many as the library likes), the inputs in order, the outputs.
struct Task {
  std::string artifact, device, dtype;
  int threads;
  std::vector<Spec> inputs, outputs;
};

// The device that was asked for cannot be used.
struct NoDevice : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// A model that runs case by case. `run` is what is timed; `taps` gives the hidden states where they are no outputs;
// `facts` are version, provider, device, dtype and threads.
class Model {
 public:
  virtual ~Model() = default;
  virtual void open(const Task& task) = 0;
  virtual Tensors run(Tensors& inputs) = 0;
  virtual Tensors taps(Tensors&) { return {}; }
  virtual std::map<std::string, std::string> facts() const = 0;
  virtual std::string told(const std::exception& error) const { return error.what(); }
};

inline std::string shown(const std::vector<int64_t>& shape) {
  std::string text;
  for (const int64_t size : shape) text += (text.empty() ? "" : ", ") + std::to_string(size);
  return "(" + text + ")";
}

// Checks a tensor against its spec; named axes must have one size within a case, which `axes` remembers.
inline void check(const Spec& spec, const Tensor& tensor, std::map<std::string, int64_t>& axes) {
  if (tensor.dtype != spec.dtype) throw std::runtime_error(spec.name + " is " + tensor.dtype + " where " + spec.dtype + " is claimed");
  if (spec.shape.empty()) return;  // not stated
  bool fits = tensor.shape.size() == spec.shape.size();
  for (size_t i = 0; fits && i < spec.shape.size(); ++i) {
    const Json& size = spec.shape[i];
    fits = tensor.shape[i] == (size.is_text() ? axes.try_emplace(size.text(), tensor.shape[i]).first->second : size.number());
  }
  if (!fits) throw std::runtime_error(spec.name + " has shape " + shown(tensor.shape) + ", which its signature does not allow");
}

inline std::vector<Spec> specs(const Json& list) {
  std::vector<Spec> found;
  for (const Json& spec : list.array()) found.push_back({spec.at("name").text(), spec.at("dtype").text(), spec.at("shape").array()});
  return found;
}

// The value after `--name` on the command line.
inline std::string option(int argc, char** argv, const std::string& name, const std::string& otherwise = "") {
  for (int i = 1; i + 1 < argc; i += 2)
    if (argv[i] == name) return argv[i + 1];
  return otherwise;
}

inline void serve(int argc, char** argv, const std::string& runtime, Model& model) {
  const auto chosen = [&](const std::string& name) {
    const std::string value = option(argc, argv, name);
    return value.empty() ? throw std::runtime_error(name + " is missing") : value;
  };
  if (!option(argc, argv, "--tokenizer").empty()) throw std::runtime_error("it takes no texts");
  TensorFile file = read_safetensors(chosen("--inputs"));
  const Json signature = Json::parse(file.metadata.at("signature"));
  const Task task{chosen("--artifact"), chosen("--device"), file.metadata.at("dtype"),
                  std::stoi(file.metadata.count("threads") ? file.metadata.at("threads") : "0"),
                  specs(signature.at("inputs")), specs(signature.at("outputs"))};
  std::map<std::string, Tensors> cases;
  for (auto& [name, tensor] : file.tensors) {
    const size_t slash = name.find('/');
    if (slash == std::string::npos) throw std::runtime_error(name + " is not called <case>/<tensor>");
    cases[name.substr(0, slash)][name.substr(slash + 1)] = std::move(tensor);
  }
  model.open(task);
  TensorFile made;
  std::string seconds;
  for (auto& [name, inputs] : cases) {
    std::map<std::string, int64_t> axes;
    for (const Spec& spec : task.inputs) {
      if (!inputs.count(spec.name)) throw std::runtime_error("case " + name + " lacks the input " + spec.name);
      const bool widened = spec.dtype == "bfloat16";  // numpy has no bfloat16, so the file has none
      check({spec.name, widened ? "float32" : spec.dtype, spec.shape}, inputs.at(spec.name), axes);
    }
    const auto started = std::chrono::steady_clock::now();
    Tensors outputs = model.run(inputs);
    const std::chrono::duration<double> taken = std::chrono::steady_clock::now() - started;
    for (auto& [tap, tensor] : model.taps(inputs)) outputs[tap] = std::move(tensor);
    for (const Spec& spec : task.outputs)
      if (outputs.count(spec.name)) check(spec, outputs.at(spec.name), axes);
    for (auto& [output, tensor] : outputs) made.tensors[name + "/" + output] = std::move(tensor);
    seconds += (seconds.empty() ? "" : ",") + json_text(name) + ":" + std::to_string(taken.count());
  }
  made.metadata = model.facts();
  made.metadata["runtime"] = runtime;
  made.metadata["seconds"] = "{" + seconds + "}";
  write_safetensors(chosen("--outputs"), made);
}

// Runs a model from the command line; whatever goes wrong becomes one line on standard error and an exit code.
inline int runner(int argc, char** argv, const std::string& runtime, Model& model) {
  const auto line = [](std::string text) {
    for (char& c : text)
      if (static_cast<unsigned char>(c) < 0x20) c = ' ';
    return text.substr(0, 500);
  };
  try {
    serve(argc, argv, runtime, model);
    return 0;
  } catch (const NoDevice& error) {
    std::cerr << line(std::string("E_DEVICE: ") + error.what() + "; use --device cpu") << std::endl;
    return 5;
  } catch (const std::exception& error) {
    std::cerr << line(runtime + ": " + model.told(error)) << std::endl;
    return 1;
  }
}
