// SHA-256 of streams.
#pragma once

#include <openssl/types.h>

#include <memory>
#include <string>
#include <string_view>

namespace userpod::images {

class Sha256 {
 public:
  Sha256();
  void update(std::string_view bytes);
  std::string digest();  // "sha256:<hex>"; once, at the end

 private:
  struct Deleter {
    void operator()(EVP_MD_CTX* context) const;
  };
  std::unique_ptr<EVP_MD_CTX, Deleter> context_;
};

std::string sha256Digest(std::string_view bytes);

}  // namespace userpod::images
