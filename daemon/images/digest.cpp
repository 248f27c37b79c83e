#include "daemon/images/digest.hpp"

#include <openssl/evp.h>

#include <array>
#include <cstdlib>

namespace userpod::images {

namespace {

// Fetched once: EVP_sha256() looks the provider up at every use.
const EVP_MD* algorithm() {
  static const EVP_MD* fetched = EVP_MD_fetch(nullptr, "SHA256", nullptr);
  return fetched;
}

}  // namespace

void Sha256::Deleter::operator()(EVP_MD_CTX* context) const {
  EVP_MD_CTX_free(context);
}

Sha256::Sha256() : context_(EVP_MD_CTX_new()) {
  // No SHA-256 or no memory: nothing could be verified, so nothing may go on.
  if (!context_ || EVP_DigestInit_ex2(context_.get(), algorithm(), nullptr) != 1) std::abort();
}

void Sha256::update(std::string_view bytes) {
  if (EVP_DigestUpdate(context_.get(), bytes.data(), bytes.size()) != 1) std::abort();
}

std::string Sha256::digest() {
  std::array<unsigned char, 32> value{};
  if (EVP_DigestFinal_ex(context_.get(), value.data(), nullptr) != 1) std::abort();
  constexpr std::string_view kDigits = "0123456789abcdef";
  std::string text = "sha256:";
  for (unsigned char byte : value) {
    text += kDigits[byte >> 4];
    text += kDigits[byte & 15];
  }
  return text;
}

std::string sha256Digest(std::string_view bytes) {
  Sha256 sum;
  sum.update(bytes);
  return sum.digest();
}

}  // namespace userpod::images
