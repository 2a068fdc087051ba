// JSON as a runner meets it: a safetensors header and the protocol's metadata. Values are read, texts are written.
#pragma once
#include <cstdint>
#include <cstdio>
#include <map>
#include <stdexcept>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

struct Json {
  using Array = std::vector<Json>;
  using Object = std::map<std::string, Json>;
  std::variant<std::nullptr_t, bool, double, std::string, Array, Object> value;

  const std::string& text() const { return as<std::string>("a text"); }
  const Array& array() const { return as<Array>("a list"); }
  const Object& object() const { return as<Object>("an object"); }
  bool is_text() const { return std::holds_alternative<std::string>(value); }
  // Whole numbers up to 2^53 are exact in a double, and no file is larger.
  int64_t number() const { return static_cast<int64_t>(as<double>("a number")); }

  const Json& at(const std::string& key) const {
    const auto found = object().find(key);
    if (found == object().end()) throw std::runtime_error("JSON lacks " + key);
    return found->second;
  }

  static Json parse(std::string_view text);

 private:
  template <class T>
  const T& as(const char* what) const {
    if (const T* found = std::get_if<T>(&value)) return *found;
    throw std::runtime_error(std::string("JSON holds something else where ") + what + " is expected");
  }
};

class JsonReader {
 public:
  explicit JsonReader(std::string_view text) : text_(text) {}

  Json document() {
    Json found = read(0);
    space();
    if (at_ != text_.size()) bad();
    return found;
  }

 private:
  std::string_view text_;
  size_t at_ = 0;

  [[noreturn]] static void bad() { throw std::runtime_error("JSON is malformed"); }

  void space() {
    while (at_ < text_.size() && std::string_view(" \t\r\n").find(text_[at_]) != std::string_view::npos) ++at_;
  }

  char peek() {
    space();
    if (at_ == text_.size()) bad();
    return text_[at_];
  }

  bool taken(char wanted) {
    if (peek() != wanted) return false;
    ++at_;
    return true;
  }

  void need(char wanted) {
    if (!taken(wanted)) bad();
  }

  bool word(std::string_view wanted) {
    if (text_.substr(at_, wanted.size()) != wanted) return false;
    at_ += wanted.size();
    return true;
  }

  Json read(int depth) {
    if (depth > 64) bad();
    switch (peek()) {
      case '{': return {object(depth)};
      case '[': return {array(depth)};
      case '"': return {string()};
      default: return scalar();
    }
  }

  Json::Object object(int depth) {
    Json::Object found;
    need('{');
    if (taken('}')) return found;
    do {
      if (peek() != '"') bad();
      std::string key = string();
      need(':');
      found[key] = read(depth + 1);
    } while (taken(','));
    need('}');
    return found;
  }

  Json::Array array(int depth) {
    Json::Array found;
    need('[');
    if (taken(']')) return found;
    do found.push_back(read(depth + 1));
    while (taken(','));
    need(']');
    return found;
  }

  Json scalar() {
    if (word("true")) return {true};
    if (word("false")) return {false};
    if (word("null")) return {nullptr};
    size_t end = at_;
    while (end < text_.size() && std::string_view("+-.eE0123456789").find(text_[end]) != std::string_view::npos) ++end;
    if (end == at_) bad();
    const double number = std::stod(std::string(text_.substr(at_, end - at_)));
    at_ = end;
    return {number};
  }

  std::string string() {
    std::string found;
    need('"');
    while (true) {
      if (at_ == text_.size()) bad();
      const char c = text_[at_++];
      if (c == '"') return found;
      found += c == '\\' ? escaped() : std::string(1, c);
    }
  }

  std::string escaped() {
    if (at_ == text_.size()) bad();
    const char c = text_[at_++];
    static const std::map<char, char> plain = {{'n', '\n'}, {'t', '\t'}, {'r', '\r'}, {'b', '\b'}, {'f', '\f'}};
    if (c != 'u') return std::string(1, plain.count(c) ? plain.at(c) : c);
    uint32_t code = hex();
    if (code >= 0xD800 && code < 0xDC00 && word("\\u")) code = 0x10000 + ((code - 0xD800) << 10) + (hex() - 0xDC00);
    return utf8(code);
  }

  uint32_t hex() {
    if (text_.size() - at_ < 4) bad();
    const auto digits = std::string(text_.substr(at_, 4));
    at_ += 4;
    return static_cast<uint32_t>(std::stoul(digits, nullptr, 16));
  }

  static std::string utf8(uint32_t code) {
    if (code < 0x80) return {static_cast<char>(code)};
    const auto tail = [&](int shift) { return static_cast<char>(0x80 | ((code >> shift) & 0x3F)); };
    if (code < 0x800) return {static_cast<char>(0xC0 | (code >> 6)), tail(0)};
    if (code < 0x10000) return {static_cast<char>(0xE0 | (code >> 12)), tail(6), tail(0)};
    return {static_cast<char>(0xF0 | (code >> 18)), tail(12), tail(6), tail(0)};
  }
};

inline Json Json::parse(std::string_view text) { return JsonReader(text).document(); }

// A text as JSON writes it, quotes included.
inline std::string json_text(std::string_view text) {
  std::string made = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') made += '\\';
    if (static_cast<unsigned char>(c) >= 0x20) {
      made += c;
      continue;
    }
    char escape[8];
    std::snprintf(escape, sizeof escape, "\\u%04x", c);
    made += escape;
  }
  return made + '"';
}
