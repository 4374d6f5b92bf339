terraform {
  required_version = ">= 1.9" # a validation may refer to other variables

  required_providers {
    google = {
      source  = "hashicorp/google"
      version = ">= 7, < 9"
    }
    time = {
      source  = "hashicorp/time"
      version = ">= 0.9, < 1"
    }
  }
}
