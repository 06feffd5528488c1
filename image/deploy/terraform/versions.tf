# Gabion on Azure, as ../bicep/main.bicep describes it; ../check compares the two.
# Not deployed from where it was written: no Azure subscription was at hand.

terraform {
  required_version = ">= 1.9"
  required_providers {
    azurerm = {
      source  = "hashicorp/azurerm"
      version = ">= 4.55, < 5.0"
    }
  }
}
