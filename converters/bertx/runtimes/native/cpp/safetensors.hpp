// Reads and writes a safetensors file: a header length, a JSON header, then the tensors' bytes, little-endian.
#pragma once
#include <cstdint>
#include <cstring>
#include <fstream>
#include <iterator>
#include <map>
#include <stdexcept>
#include <string>
#include <vector>

#include "json.hpp"

// One tensor; `dtype` as PyTorch calls it ("float32"), the elements in row-major order.
struct Tensor {
  std::string dtype;
  std::vector<int64_t> shape;
  std::vector<char> bytes;
};

struct TensorFile {
  std::map<std::string, Tensor> tensors;
  std::map<std::string, std::string> metadata;
};

struct Dtype {
  const char* code;  // in the file
  const char* name;
  int64_t size;
};

inline const Dtype& dtype_where(const char* Dtype::*field, const std::string& wanted) {
  static const Dtype all[] = {{"F64", "float64", 8}, {"F32", "float32", 4}, {"F16", "float16", 2},
                              {"BF16", "bfloat16", 2}, {"I64", "int64", 8}, {"I32", "int32", 4},
                              {"I8", "int8", 1},      {"U8", "uint8", 1},   {"BOOL", "bool", 1}};
  for (const Dtype& dtype : all)
    if (wanted == dtype.*field) return dtype;
  throw std::runtime_error("dtype " + wanted + " is not supported");
}

inline int64_t count(const std::vector<int64_t>& shape) {
  int64_t product = 1;
  for (const int64_t size : shape) product *= size;
  return product;
}

inline TensorFile read_safetensors(const std::string& path) {
  std::ifstream stream(path, std::ios::binary);
  if (!stream) throw std::runtime_error("cannot open " + path);
  const std::string content((std::istreambuf_iterator<char>(stream)), {});
  uint64_t length = 0;
  if (content.size() >= 8) std::memcpy(&length, content.data(), 8);
  if (content.size() < 8 || length > content.size() - 8) throw std::runtime_error(path + " is no safetensors file");
  const std::string_view data = std::string_view(content).substr(8 + length);
  TensorFile file;
  const Json header = Json::parse(std::string_view(content).substr(8, length));
  for (const auto& [name, entry] : header.object()) {
    if (name == "__metadata__") {
      for (const auto& [key, value] : entry.object()) file.metadata[key] = value.text();
      continue;
    }
    const Dtype& dtype = dtype_where(&Dtype::code, entry.at("dtype").text());
    Tensor tensor{dtype.name, {}, {}};
    for (const Json& size : entry.at("shape").array()) tensor.shape.push_back(size.number());
    const auto& offsets = entry.at("data_offsets").array();
    const int64_t begin = offsets.at(0).number(), end = offsets.at(1).number();
    const bool inside = 0 <= begin && begin <= end && end <= static_cast<int64_t>(data.size());
    if (!inside || end - begin != count(tensor.shape) * dtype.size) throw std::runtime_error(name + " does not fit its shape");
    tensor.bytes.assign(data.begin() + begin, data.begin() + end);
    file.tensors[name] = std::move(tensor);
  }
  return file;
}

inline void write_safetensors(const std::string& path, const TensorFile& file) {
  std::string header = "{\"__metadata__\":{";
  for (const auto& [key, value] : file.metadata) header += (header.back() == '{' ? "" : ",") + json_text(key) + ":" + json_text(value);
  header += "}";
  size_t offset = 0;
  for (const auto& [name, tensor] : file.tensors) {
    std::string shape;
    for (const int64_t size : tensor.shape) shape += (shape.empty() ? "" : ",") + std::to_string(size);
    const size_t end = offset + tensor.bytes.size();
    header += "," + json_text(name) + ":{\"dtype\":" + json_text(dtype_where(&Dtype::name, tensor.dtype).code) +
              ",\"shape\":[" + shape + "],\"data_offsets\":[" + std::to_string(offset) + "," + std::to_string(end) + "]}";
    offset = end;
  }
  header += "}";
  header.resize((header.size() + 7) / 8 * 8, ' ');
  const uint64_t length = header.size();
  std::ofstream stream(path, std::ios::binary);
  stream.write(reinterpret_cast<const char*>(&length), 8) << header;
  for (const auto& [name, tensor] : file.tensors) stream.write(tensor.bytes.data(), static_cast<std::streamsize>(tensor.bytes.size()));
  if (!stream.flush()) throw std::runtime_error("cannot write " + path);
}
