// A TorchScript file in libtorch: inputs by position, one Tensor out.
#include <dlfcn.h>
#include <torch/script.h>
#include <ATen/Parallel.h>
#include <torch/cuda.h>
#include <torch/version.h>

#include "runner.hpp"

namespace {

const std::map<std::string, torch::ScalarType> kTypes = {
    {"float64", torch::kDouble}, {"float32", torch::kFloat}, {"float16", torch::kHalf},
    {"bfloat16", torch::kBFloat16}, {"int64", torch::kLong}, {"int32", torch::kInt},
    {"int8", torch::kChar}, {"uint8", torch::kByte}, {"bool", torch::kBool}};

std::string named(torch::ScalarType type) {
  for (const auto& [name, known] : kTypes)
    if (known == type) return name;
  throw std::runtime_error(std::string("a tensor of type ") + torch::toString(type));
}

// Programs that link libtorch lose its CUDA half unless the linker is told otherwise; opening it registers it.
torch::Device device_named(const std::string& name) {
  if (name == "cpu") return torch::kCPU;
  dlopen("libtorch_cuda.so", RTLD_NOW | RTLD_GLOBAL);
  const torch::Device device(name);
  if (std::max<int>(device.index(), 0) >= torch::cuda::device_count()) throw NoDevice("libtorch sees no device " + name);
  return device;
}

class LibTorch : public Model {
 public:
  void open(const Task& task) override {
    if (task.threads > 0) at::set_num_threads(task.threads);
    device_ = device_named(task.device);
    // As it was saved, without eval(): a program that does not call it either gets the same.
    module_ = torch::jit::load(task.artifact, device_);
    for (const auto& parameter : module_.named_parameters())
      if (parameter.value.is_floating_point() && named(parameter.value.scalar_type()) != task.dtype)
        throw std::runtime_error(parameter.name + " is " + named(parameter.value.scalar_type()) + " where " + task.dtype + " is claimed");
    inputs_ = task.inputs;
    output_ = task.outputs.at(0).name;
    dtype_ = task.dtype;
  }

  Tensors run(Tensors& inputs) override {
    const torch::InferenceMode no_gradients;
    const torch::jit::IValue result = module_.forward(given(inputs));
    if (!result.isTensor()) throw std::runtime_error("forward gave a " + result.tagKind() + ", not one Tensor");
    used_ = result.toTensor().device().str();
    return {{output_, taken(result.toTensor())}};
  }

  Tensors taps(Tensors& inputs) override {
    const torch::InferenceMode no_gradients;
    Tensors states;
    if (const auto method = module_.find_method("hidden_states"))
      for (const auto& state : (*method)(given(inputs)).toTensor().unbind())
        states["hidden_states." + std::to_string(states.size())] = taken(state);
    return states;
  }

  // libtorch's own messages carry a C++ backtrace.
  std::string told(const std::exception& error) const override {
    const auto* own = dynamic_cast<const c10::Error*>(&error);
    return own ? own->what_without_backtrace() : error.what();
  }

  std::map<std::string, std::string> facts() const override {
    return {{"version", TORCH_VERSION}, {"provider", "libtorch"}, {"device", used_}, {"dtype", dtype_},
            {"threads", std::to_string(at::get_num_threads())}};
  }

 private:
  std::vector<torch::jit::IValue> given(Tensors& inputs) const {
    std::vector<torch::jit::IValue> values;
    for (const Spec& spec : inputs_) {
      Tensor& input = inputs.at(spec.name);
      const auto tensor = torch::from_blob(input.bytes.data(), input.shape, kTypes.at(input.dtype));
      values.push_back(tensor.to(device_, kTypes.at(spec.dtype), false, true));
    }
    return values;
  }

  static Tensor taken(const torch::Tensor& tensor) {
    const torch::Tensor whole = tensor.cpu().contiguous();
    const auto* begin = static_cast<const char*>(whole.data_ptr());
    return {named(whole.scalar_type()), whole.sizes().vec(), {begin, begin + whole.nbytes()}};
  }

  torch::Device device_ = torch::kCPU;
  torch::jit::Module module_;
  std::vector<Spec> inputs_;
  std::string output_, dtype_, used_ = "unknown";
};

}  // namespace

int main(int argc, char** argv) {
  LibTorch model;
  return runner(argc, argv, "libtorch", model);
}
