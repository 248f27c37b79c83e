// nftables through its library: no process is started. One thread.
#pragma once

#include <nftables/libnftables.h>

#include <memory>
#include <string>

#include "daemon/sys/error.hpp"

namespace userpod::network {

class Nftables {
 public:
  // For the network namespace of the calling thread. NotSupported when the kernel has no nftables.
  static Result<Nftables> open();
  // Commands of nft(8), carried out as one transaction: all or nothing.
  Status run(const std::string& commands);

 private:
  struct Free {
    void operator()(nft_ctx* context) const { nft_ctx_free(context); }
  };
  explicit Nftables(nft_ctx* context) : context_(context) {}
  std::unique_ptr<nft_ctx, Free> context_;
};

}  // namespace userpod::network
