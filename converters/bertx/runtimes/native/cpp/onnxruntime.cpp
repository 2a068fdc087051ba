// An ONNX file in ONNX Runtime, whose library is opened when the program starts: inputs by name, all outputs.
//   runner-onnxruntime --library libonnxruntime.so.1 --artifact model.onnx ...
#include <dlfcn.h>

#include <algorithm>
#include <memory>
#include <set>
#include <thread>

#include "onnxruntime_api.h"
#include "runner.hpp"

namespace {

// ONNXTensorElementDataType by our names.
const std::map<std::string, int> kTypes = {{"float32", 1}, {"uint8", 2},    {"int8", 3},     {"int32", 6},    {"int64", 7},
                                           {"bool", 9},    {"float16", 10}, {"float64", 11}, {"bfloat16", 16}};

std::string named(int type) {
  for (const auto& [name, known] : kTypes)
    if (known == type) return name;
  throw std::runtime_error("a tensor of type " + std::to_string(type));
}

// An input or output of the file; `given` is what the cases call an input.
struct Value {
  std::string name, dtype, given;
};

class OnnxRuntime : public Model {
 public:
  explicit OnnxRuntime(const std::string& path) : path_(path) {}

  void open(const Task& task) override {
    if (task.device != "cpu") throw NoDevice("this runner knows the CPU only");
    load();
    OrtEnv* env = nullptr;
    need(ort_->CreateEnv(kOrtLogError, "runner", &env));
    env_ = held(env, ort_->ReleaseEnv);
    OrtSessionOptions* options = nullptr;
    need(ort_->CreateSessionOptions(&options));
    const auto released = held(options, ort_->ReleaseSessionOptions);
    threads_ = task.threads > 0 ? task.threads : static_cast<int>(std::thread::hardware_concurrency());
    need(ort_->SetIntraOpNumThreads(options, threads_));
    OrtSession* session = nullptr;
    need(ort_->CreateSession(env, task.artifact.c_str(), options, &session));
    session_ = held(session, ort_->ReleaseSession);
    OrtMemoryInfo* memory = nullptr;
    need(ort_->CreateCpuMemoryInfo(kOrtArenaAllocator, kOrtMemTypeDefault, &memory));
    memory_ = held(memory, ort_->ReleaseMemoryInfo);
    inputs_ = bound(values(ort_->SessionGetInputCount, ort_->SessionGetInputName, ort_->SessionGetInputTypeInfo), task);
    outputs_ = values(ort_->SessionGetOutputCount, ort_->SessionGetOutputName, ort_->SessionGetOutputTypeInfo);
    dtype_ = task.dtype;
  }

  Tensors run(Tensors& inputs) override {
    std::vector<std::shared_ptr<OrtValue>> given;
    std::vector<const OrtValue*> fed;
    std::vector<const char*> input_names, output_names;
    for (const Value& input : inputs_) {
      given.push_back(tensor(input, inputs));
      fed.push_back(given.back().get());
      input_names.push_back(input.name.c_str());
    }
    for (const Value& output : outputs_) output_names.push_back(output.name.c_str());
    std::vector<OrtValue*> made(outputs_.size(), nullptr);
    need(ort_->Run(session_.get(), nullptr, input_names.data(), fed.data(), fed.size(), output_names.data(), made.size(), made.data()));
    Tensors outputs;
    for (size_t i = 0; i < made.size(); ++i) outputs[outputs_[i].name] = taken(held(made[i], ort_->ReleaseValue).get());
    return outputs;
  }

  std::map<std::string, std::string> facts() const override {
    return {{"version", version_}, {"provider", "CPUExecutionProvider"}, {"device", "cpu"}, {"dtype", dtype_},
            {"threads", std::to_string(threads_)}};
  }

 private:
  void load() {
    void* library = dlopen(path_.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (!library) throw std::runtime_error(dlerror());
    const auto base = reinterpret_cast<const OrtApiBase* (*)()>(dlsym(library, "OrtGetApiBase"));
    if (!base) throw std::runtime_error(path_ + " is no ONNX Runtime");
    version_ = base()->GetVersionString();
    const OrtApi* table = base()->GetApi(kOrtApiVersion);
    if (!table) throw std::runtime_error("ONNX Runtime " + version_ + " lacks API " + std::to_string(kOrtApiVersion));
    ort_ = std::make_unique<Ort>(table);
  }

  void need(OrtStatus* status) const {
    if (!status) return;
    const std::string message = ort_->GetErrorMessage(status);
    ort_->ReleaseStatus(status);
    throw std::runtime_error(message);
  }

  template <class T>
  static std::shared_ptr<T> held(T* handle, void (*release)(T*)) {
    return std::shared_ptr<T>(handle, release);
  }

  template <class Count, class Name, class Type>
  std::vector<Value> values(Count count, Name name, Type type) const {
    OrtAllocator* allocator = nullptr;
    need(ort_->GetAllocatorWithDefaultOptions(&allocator));
    size_t number = 0;
    need(count(session_.get(), &number));
    std::vector<Value> found;
    for (size_t i = 0; i < number; ++i) {
      char* text = nullptr;
      need(name(session_.get(), i, allocator, &text));
      found.push_back({text, "", ""});
      need(ort_->AllocatorFree(allocator, text));
      OrtTypeInfo* info = nullptr;
      need(type(session_.get(), i, &info));
      const auto released = held(info, ort_->ReleaseTypeInfo);
      const OrtTensorTypeAndShapeInfo* tensor = nullptr;
      need(ort_->CastTypeInfoToTensorInfo(info, &tensor));
      if (!tensor) throw std::runtime_error(found.back().name + " is no tensor");
      found.back().dtype = element(tensor);
    }
    return found;
  }

  // The file's inputs by name; a file with names of its own takes them in the order of the cases.
  static std::vector<Value> bound(std::vector<Value> theirs, const Task& task) {
    std::set<std::string> ours;
    for (const Spec& spec : task.inputs) ours.insert(spec.name);
    const bool known = std::all_of(theirs.begin(), theirs.end(), [&](const Value& value) { return ours.count(value.name); });
    if (!known && theirs.size() != task.inputs.size()) throw std::runtime_error("the file has other inputs than the cases");
    for (size_t i = 0; i < theirs.size(); ++i) theirs[i].given = known ? theirs[i].name : task.inputs[i].name;
    return theirs;
  }

  std::string element(const OrtTensorTypeAndShapeInfo* info) const {
    int type = 0;
    need(ort_->GetTensorElementType(info, &type));
    return named(type);
  }

  std::shared_ptr<OrtValue> tensor(const Value& input, Tensors& inputs) const {
    Tensor& given = inputs.at(input.given);
    if (given.dtype != input.dtype) throw std::runtime_error("input " + input.name + " is " + given.dtype + ", the file wants " + input.dtype);
    OrtValue* value = nullptr;
    need(ort_->CreateTensorWithDataAsOrtValue(memory_.get(), given.bytes.data(), given.bytes.size(), given.shape.data(),
                                              given.shape.size(), kTypes.at(given.dtype), &value));
    return held(value, ort_->ReleaseValue);
  }

  Tensor taken(OrtValue* value) const {
    OrtTensorTypeAndShapeInfo* info = nullptr;
    need(ort_->GetTensorTypeAndShape(value, &info));
    const auto released = held(info, ort_->ReleaseTensorTypeAndShapeInfo);
    size_t rank = 0;
    need(ort_->GetDimensionsCount(info, &rank));
    Tensor tensor{element(info), std::vector<int64_t>(rank), {}};
    need(ort_->GetDimensions(info, tensor.shape.data(), rank));
    void* data = nullptr;
    need(ort_->GetTensorMutableData(value, &data));
    const auto* begin = static_cast<const char*>(data);
    tensor.bytes.assign(begin, begin + count(tensor.shape) * dtype_where(&Dtype::name, tensor.dtype).size);
    return tensor;
  }

  std::string path_, version_, dtype_;
  int threads_ = 0;
  std::unique_ptr<Ort> ort_;
  std::shared_ptr<OrtEnv> env_;
  std::shared_ptr<OrtSession> session_;
  std::shared_ptr<OrtMemoryInfo> memory_;
  std::vector<Value> inputs_, outputs_;
};

}  // namespace

int main(int argc, char** argv) {
  OnnxRuntime model(option(argc, argv, "--library", "libonnxruntime.so.1"));
  return runner(argc, argv, "onnxruntime", model);
}
